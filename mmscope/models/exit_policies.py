"""Judges of the coarse answer other than the exit head's own confidence."""

import os
import random
from abc import ABCMeta, abstractmethod
from pathlib import Path

import mmengine
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscope.functional import multi_label_confidence
from mmscope.functional.checks import check_choice, check_share
from mmscope.functional.confidence import MULTI_LABEL_CONFIDENCES
from mmscope.registry import MODELS

from .evidence import Evidence


def image_key(path: str) -> str:
    """What an image is known by: its path as the data set has it.

    Args:
        path: File of the image, relative or absolute.

    Returns:
        The same with '/' between folders.
    """
    return str(path).replace(os.sep, '/')


class ExitPolicy(BaseModule, metaclass=ABCMeta):
    """How sure one may be of the coarse answer.

    Set ``exit_policy`` of the backbone to one of them; an image then exits
    iff the policy's confidence reaches eta. A subclass registered in
    ``mmscope.registry.MODELS`` is a policy of your own.

    Attributes:
        decodes: Whether it decodes the coarse maps of every image.
    """

    decodes = False

    @abstractmethod
    def forward(self, evidence: Evidence) -> Tensor:
        """Judge coarse answers: confidences in [0, 1], (B,)."""


@MODELS.register_module()
class HeadConfidence(ExitPolicy):
    """The exit head, summed up in another way than its own.

    Args:
        mode: Rule that makes one confidence of K probabilities, see
            :func:`mmscope.functional.multi_label_confidence`.
    """

    def __init__(self, mode: str = 'mean_positive') -> None:
        super().__init__()
        check_choice('mode', mode, MULTI_LABEL_CONFIDENCES)
        self.mode = mode

    def forward(self, evidence: Evidence) -> Tensor:
        """Confidences, (B,)."""
        return multi_label_confidence(evidence.logits, self.mode)


@MODELS.register_module()
class ForcedExit(ExitPolicy):
    """The first images of every batch, whatever they show: to measure speed.

    They get confidence 1 and the others 0, so that this very share exits at
    any eta between 0 and 1.

    Args:
        share: Share of each batch that exits, rounded to whole images.
        policy: Policy, or its config, that is asked and overruled, so that
            its work is done.
    """

    def __init__(
        self, share: float, policy: dict | ExitPolicy | None = None
    ) -> None:
        super().__init__()
        check_share('share', share)
        self.share = share
        self.policy = (
            MODELS.build(policy) if isinstance(policy, dict) else policy
        )
        self.decodes = policy is not None and self.policy.decodes

    def forward(self, evidence: Evidence) -> Tensor:
        """Confidences, (B,)."""
        if self.policy is not None:
            self.policy(evidence)
        confidence = torch.zeros_like(evidence.coarse.importance[:, 0])
        confidence[: round(self.share * len(confidence))] = 1
        return confidence


@MODELS.register_module()
class PixelConfidence(ExitPolicy):
    """Mean probability of the predicted class over the coarse pixels.

    The coarse maps are decoded before the decision; an exited image keeps
    this very answer, a refined one pays for it. With a single channel of
    logits, which a binary decode head has, it is the larger one of the
    foreground's and the background's probability.
    """

    decodes = True

    def forward(self, evidence: Evidence) -> Tensor:
        """Confidences, (B,).

        Raises:
            TypeError: the model predicts no pixels.
        """
        prob = evidence.certainty('exit_policy=PixelConfidence')
        content = nn.functional.interpolate(
            evidence.content, prob.shape[1:], mode='area'
        ).squeeze(1)
        return (prob * content).sum(dim=(1, 2)) / content.sum(dim=(1, 2))


@MODELS.register_module()
class RandomExit(ExitPolicy):
    """Chance: the least that a policy must beat.

    An image's confidence follows from its path and the seed, so that it does
    not depend on its batch mates; images without a file draw anew.

    Args:
        seed: Seed of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._unnamed = random.Random(seed)

    def forward(self, evidence: Evidence) -> Tensor:
        """Confidences, uniform in [0, 1), (B,)."""
        draws = [
            random.Random(f'{self.seed} {image_key(path)}').random()
            if path
            else self._unnamed.random()
            for path in evidence.files
        ]
        return evidence.content.new_tensor(draws)


@MODELS.register_module()
class OracleExit(ExitPolicy):
    """The best that a policy could do: it knows what each image loses.

    Args:
        losses: File that ``tools/eta_sweep.py`` wrote, losses.json: the
            quality that the coarse answer to each image lacks, by the
            image's :func:`image_key`.
    """

    def __init__(self, losses: str) -> None:
        super().__init__()
        if not Path(losses).is_file():
            raise FileNotFoundError(
                f'losses={losses!r} does not exist; tools/eta_sweep.py writes '
                'it as losses.json'
            )
        self.losses = losses
        table = mmengine.load(losses)
        order = sorted(table, key=table.get)
        self._confidence = {
            name: 1 - (rank + 0.5) / len(order)
            for rank, name in enumerate(order)
        }

    def forward(self, evidence: Evidence) -> Tensor:
        """Confidences: 1 where least is lost, (B,).

        Raises:
            KeyError: an image is not among the losses.
        """
        names = [image_key(path) for path in evidence.files]
        missing = [name for name in names if name not in self._confidence]
        if missing:
            raise KeyError(
                f'{self.losses} knows no image {missing[0]!r}; run '
                'tools/eta_sweep.py on the same dataset'
            )
        return evidence.content.new_tensor(
            [self._confidence[name] for name in names]
        )


@MODELS.register_module()
class LearnedRouter(ExitPolicy):
    """A small network that predicts whether the coarse answer is as good.

    It looks at the coarse class token and at the exit head's logits.
    ``tools/train_router.py`` trains it with everything else frozen.

    Args:
        in_channels: Channels C of the class token.
        num_classes: Classes K of the exit head.
        hidden: Width of its one hidden layer.
    """

    def __init__(
        self, in_channels: int, num_classes: int, hidden: int = 32
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_channels + num_classes, affine=False)
        self.layers = nn.Sequential(
            nn.Linear(in_channels + num_classes, hidden),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, 1),
        )
        # training a model leaves its router alone
        self.requires_grad_(False)

    def forward(self, evidence: Evidence) -> Tensor:
        """Confidences, (B,)."""
        return self.score(self.inputs(evidence)).sigmoid()

    @staticmethod
    def inputs(evidence: Evidence) -> Tensor:
        """What it looks at, (B, C + K)."""
        return torch.cat(
            [evidence.coarse.cls.float(), evidence.logits.float()], dim=1
        )

    def score(self, inputs: Tensor) -> Tensor:
        """Logit of "as good": (B, C + K) to (B,)."""
        return self.layers(self.norm(inputs)).squeeze(1)


POLICIES: dict[str, dict] = {
    **{
        mode: dict(type='mmscope.HeadConfidence', mode=mode)
        for mode in MULTI_LABEL_CONFIDENCES
    },
    'pixel': dict(type='mmscope.PixelConfidence'),
    'chance': dict(type='mmscope.RandomExit'),
}


def build_policy(name: str) -> ExitPolicy:
    """Build one of the policies that need no file and no training.

    Args:
        name: Key of ``POLICIES``.
    """
    check_choice('policy', name, POLICIES)
    return MODELS.build(POLICIES[name])
