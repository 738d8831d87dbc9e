"""Both answers to images, in the form that replay and calibration take."""

from dataclasses import dataclass, replace

import numpy as np

from mmscope.datasets.subset import spread
from mmscope.evaluation.task_metric import Entry
from mmscope.models.exit_policies import image_key


@dataclass(frozen=True)
class ImageAnswers:
    """The coarse and the fine answer to one image, and what is between.

    An image is decided about as a whole, or by windows under slide
    inference; a whole image is one window.

    Attributes:
        name: File of the image.
        confidence: Confidence of the coarse answer by each policy, a mean
            over windows.
        windows: Confidence of each of W windows by the model's own policy,
            highest first.
        entries: What the metric keeps of the answers in which the 0, 1, ...,
            W surest windows exited: the fine one first, the coarse one last.
        quality: Quality of the coarse and the fine answer, see
            :meth:`TaskMetric.quality`.
        gflops: GFLOPs of both paths; NaN where not counted.
        seconds: Seconds of both paths, the fine one's with the coarse pass.
    """

    name: str
    confidence: dict[str, float]
    windows: tuple[float, ...]
    entries: tuple[Entry, ...]
    quality: tuple[float, float]
    gflops: tuple[float, float]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class ExitAnswers:
    """Both answers to N images, and what is between.

    Attributes:
        names: Files of the images, N.
        confidence: Confidence of the coarse answers, (N,).
        windows: Confidence of each image's windows, highest first, N arrays
            of (W,); W = 1 where images are decided about as a whole.
        entries: What the metric keeps of the answers in which the 0, 1, ...,
            W surest windows exited, for each of N images.
        quality: Quality of the coarse and the fine answer to each, (N, 2),
            in points of 0 to 100.
        gflops: GFLOPs of both paths, (N, 2).
        seconds: Seconds of both paths, (N, 2).
    """

    names: list[str]
    confidence: np.ndarray
    windows: list[np.ndarray]
    entries: list[tuple[Entry, ...]]
    quality: np.ndarray
    gflops: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fine(self) -> list[Entry]:
        """What the metric keeps of the fine answers, N."""
        return [between[0] for between in self.entries]

    @property
    def quality_drop(self) -> np.ndarray:
        """Quality that the coarse answers lack, (N,), in points."""
        return self.quality[:, 1] - self.quality[:, 0]

    def chosen(self, exited: np.ndarray) -> list[Entry]:
        """The answers if these images keep the coarse one.

        Args:
            exited: Whether each exits, or the share of its windows that do,
                (N,).
        """
        return [
            between[round(share * (len(between) - 1))]
            for share, between in zip(
                exited.astype(float), self.entries, strict=True
            )
        ]

    def rows(self, index: np.ndarray) -> 'ExitAnswers':
        """Take some images, or the same ones repeatedly."""
        return ExitAnswers(
            [self.names[i] for i in index],
            self.confidence[index],
            [self.windows[i] for i in index],
            [self.entries[i] for i in index],
            self.quality[index],
            self.gflops[index],
            self.seconds[index],
        )

    def judged_by(self, confidence: np.ndarray) -> 'ExitAnswers':
        """The same answers under other confidences in whole images, (N,)."""
        return replace(
            self,
            confidence=confidence,
            windows=[np.array([value]) for value in confidence],
            entries=[(one[0], one[-1]) for one in self.entries],
        )

    def from_sure_to_unsure(self, count: int) -> list[int]:
        """Choose up to ``count`` images, evenly by rank of confidence."""
        order = np.argsort(-self.confidence, kind='stable')
        return order[spread(len(self), count)].tolist()

    def quality_drops(self) -> dict[str, float]:
        """The :attr:`quality_drop` by image, for :class:`OracleExit`."""
        names = [image_key(name) for name in self.names]
        return dict(zip(names, self.quality_drop.tolist(), strict=True))


def gather(images: list[ImageAnswers], policy: str) -> ExitAnswers:
    """Line up the answers to images.

    Args:
        images: Answers to N images.
        policy: Name of the policy whose confidences count.
    """
    return ExitAnswers(
        names=[one.name for one in images],
        confidence=np.array([one.confidence[policy] for one in images]),
        windows=[np.array(one.windows) for one in images],
        entries=[one.entries for one in images],
        quality=np.array([one.quality for one in images]),
        gflops=np.array([one.gflops for one in images]),
        seconds=np.array([one.seconds for one in images]),
    )
