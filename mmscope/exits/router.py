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
from mmscope.models import collect_passes, exit_settings, require_exits
from mmscope.models.exit_policies import LearnedRouter
from mmscope.utils.windows import slides

from .collect import collect_answers

LEARNING_RATE, WEIGHT_DECAY, STEPS, HELD_OUT = 3e-3, 1e-2, 300, 4


@dataclass(frozen=True)
class RouterFit:
    """How well a router tells good coarse answers.

    Attributes:
        auroc: AUROC of the router on images that it was not fitted on.
        auroc_before: AUROC of the model's own confidence on the same images.
        images: Number of images that it was fitted on.
    """

    auroc: float
    auroc_before: float
    images: int


@torch.no_grad()
def router_inputs(model: nn.Module, loader: DataLoader) -> Tensor:
    """What a router looks at in each image, in order, (N, C + K)."""
    rows = []
    with exit_settings(model, eta=0.0), collect_passes(model) as passes:
        for batch in track(loader, 'Router inputs'):
            samples = batch['data_samples']
            # one image at a time: images of other sizes change the order
            for image, sample in zip(batch['inputs'], samples, strict=True):
                model.test_step(
                    dict(inputs=[image], data_samples=[sample.clone()])
                )
            rows += [
                LearnedRouter.inputs(one.decision.evidence).cpu()
                for one in passes
            ]
            passes.clear()
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
        router: Router to train, in place.
        loader: Images with ground truth, in a fixed order. Every fourth is
            kept to judge the router on.
        metric: Metric of the task.
        tolerance: Points that a good coarse answer may lack.
        seed: Seed of initial weights and of dropout.

    Raises:
        ValueError: the model has no exit head, or all images are good, or
            none is.
    """
    require_exits(model, 'a router')
    if slides(model):
        raise ValueError(
            "test_cfg.mode='slide' decides for each window, and a router "
            'learns from whole images; train it with '
            '--cfg-options model.test_cfg.mode=whole'
        )
    model.eval()
    ordered = DataLoader(
        loader.dataset, loader.batch_size, collate_fn=loader.collate_fn
    )
    answers = collect_answers(model, ordered, metric)['model']
    inputs = router_inputs(model, ordered)
    good = answers.quality_drop <= tolerance
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
        router: Router to train, in place.
        inputs: Inputs of N images, (N, C + K).
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
