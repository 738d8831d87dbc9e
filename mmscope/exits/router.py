"""Training of a learned exit policy, the model frozen."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmscope.evaluation.exit_statistics import auroc
from mmscope.evaluation.task_metric import TaskMetric
from mmscope.models import exit_settings
from mmscope.models.exit_policies import Evidence, ExitPolicy, LearnedRouter

from .answers import check_exits, collect_answers

LEARNING_RATE, WEIGHT_DECAY, STEPS, HELD_OUT = 3e-3, 1e-2, 300, 4


@dataclass(frozen=True)
class RouterFit:
    """How well a router tells good coarse answers.

    Attributes:
        auroc: On images that it was not fitted on.
        auroc_before: Of the model's own confidence on the same images.
        images: How many it was fitted on.
    """

    auroc: float
    auroc_before: float
    images: int


class _Recorder(ExitPolicy):
    """Keeps what a router would look at, and judges as the exit head does."""

    def __init__(self, exit_head: nn.Module) -> None:
        super().__init__()
        self.confidence = exit_head.confidence
        self.seen: list[Tensor] = []

    def forward(self, evidence: Evidence) -> Tensor:
        self.seen.append(LearnedRouter.inputs(evidence).cpu())
        return self.confidence(evidence.logits)


@torch.no_grad()
def router_inputs(model: nn.Module, loader: DataLoader) -> Tensor:
    """What a router looks at in each image, in order, (N, C + K)."""
    recorder = _Recorder(model.backbone.exit_head)
    rows = []
    with exit_settings(model, eta=0.0, policy=recorder):
        for batch in track(loader, 'Router inputs'):
            recorder.seen.clear()
            samples = batch['data_samples']
            # one image at a time: images of other sizes change the order
            for image, sample in zip(batch['inputs'], samples, strict=True):
                model.test_step(
                    dict(inputs=[image], data_samples=[sample.clone()])
                )
            rows += recorder.seen
    return torch.cat(rows)


def fit_router(
    model: nn.Module,
    router: LearnedRouter,
    loader: DataLoader,
    metric: TaskMetric,
    tolerance: float,
    seed: int = 0,
) -> RouterFit:
    """Train a router to predict where the coarse answer is as good.

    Args:
        model: A trained model of mmscope; it is not changed.
        router: To train, in place.
        loader: Images with ground truth, in a fixed order. Every fourth is
            kept to judge the router on.
        metric: Judge of the answers.
        tolerance: Points that a good coarse answer may lack.
        seed: Of initial weights and of dropout.

    Raises:
        ValueError: the model has no exit head, or all images are good, or
            none is.
    """
    check_exits(model)
    model.eval()
    ordered = DataLoader(
        loader.dataset, loader.batch_size, collate_fn=loader.collate_fn
    )
    answers = collect_answers(model, ordered, metric)['model']
    inputs = router_inputs(model, ordered)
    good = answers.loss <= tolerance
    kept = np.arange(len(good)) % HELD_OUT == HELD_OUT - 1
    if good[~kept].all() or not good[~kept].any():
        raise ValueError(
            f'{good.sum()} of {len(good)} coarse answers are within '
            f'{tolerance:g} points of the fine ones, so that there is nothing '
            'to tell apart; change the tolerance'
        )
    torch.manual_seed(seed)
    train_router(router, inputs[~kept], torch.from_numpy(good[~kept]).float())
    with torch.no_grad():
        score = router.score(inputs[kept]).numpy()
    return RouterFit(
        auroc(score, good[kept]),
        auroc(answers.confidence[kept], good[kept]),
        int((~kept).sum()),
    )


def train_router(
    router: LearnedRouter, inputs: Tensor, target: Tensor
) -> None:
    """Minimise the cross-entropy on all images at once.

    Args:
        router: To train, in place.
        inputs: (N, C + K).
        target: 1 where the coarse answer is as good, (N,).
    """
    router.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        router.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    for _ in track(range(STEPS), 'Router'):
        optimizer.zero_grad()
        score = router.score(inputs)
        F.binary_cross_entropy_with_logits(score, target).backward()
        optimizer.step()
    router.requires_grad_(False).eval()
