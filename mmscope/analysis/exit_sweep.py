"""What every threshold eta gives, from one run of both paths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmscope.scope import exits

Record = dict[str, float]


@dataclass(frozen=True)
class ExitAnswers:
    """The coarse and the fine answer to every image.

    An answer is kept as its pixels per class: where prediction and ground
    truth agree, predicted, and true; mIoU sums these over images.

    Attributes:
        names: File name of each image.
        confidence: Confidence of the coarse answers, (N,).
        coarse: Agreeing, predicted and true pixels, (N, 3, K).
        fine: The same of the fine answers.
    """

    names: list[str]
    confidence: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray

    def miou(self, exited: np.ndarray) -> float:
        """MIoU in percent if these images, (N,) bool, keep the coarse one."""
        areas = np.where(exited[:, None, None], self.coarse, self.fine)
        return 100 * mean_iou(areas.sum(axis=0))

    def qualities(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean IoU of each image, coarse and fine, (N,) each."""
        return (
            np.array([mean_iou(areas) for areas in self.coarse]),
            np.array([mean_iou(areas) for areas in self.fine]),
        )


def mean_iou(areas: np.ndarray) -> float:
    """Mean IoU over the classes that were predicted or are true.

    Args:
        areas: Agreeing, predicted and true pixels, (3, K).
    """
    agreeing, predicted, true = areas
    union = predicted + true - agreeing
    return float((agreeing[union > 0] / union[union > 0]).mean())


def class_areas(
    prediction: Tensor, truth: Tensor, num_classes: int, ignore_index: int
) -> np.ndarray:
    """Count agreeing, predicted and true pixels of each class.

    Args:
        prediction: Labels, (H, W).
        truth: Labels, (H, W).
        num_classes: Classes K.
        ignore_index: Label of pixels that do not count.

    Returns:
        (3, K).
    """
    counted = truth != ignore_index
    prediction, truth = prediction[counted], truth[counted]
    labels = (prediction[prediction == truth], prediction, truth)
    return np.stack(
        [torch.bincount(x, minlength=num_classes).numpy() for x in labels]
    )


@torch.no_grad()
def collect_answers(
    model: nn.Module,
    loader: DataLoader,
    visit: Callable[[BaseDataElement, BaseDataElement], None] | None = None,
) -> ExitAnswers:
    """Segment every image at eta = 0 and at eta = 1.

    Args:
        model: A MambaScopeSegmentor.
        loader: Of images with ``gt_sem_seg``.
        visit: Called with the coarse and the fine prediction of each image.

    Returns:
        Both answers to every image.

    Raises:
        ValueError: the model has no exit head, or the loader is empty.
    """
    if getattr(model.backbone, 'exit_head', None) is None:
        raise ValueError(
            'the model has no exit head, so that there is no eta to choose'
        )
    if len(loader.dataset) == 0:
        raise ValueError('the dataset is empty; check its folders')
    model.eval()
    own_eta = model.backbone.eta
    names, confidence, coarse, fine = [], [], [], []
    for batch in track(loader, 'Both paths'):
        answers = []
        for eta in (0.0, 1.0):
            model.backbone.eta = eta
            answers.append(model.test_step(_copy(batch)))
        for easy, hard in zip(*answers, strict=True):
            names.append(easy.metainfo.get('img_path', ''))
            confidence.append(easy.exit_confidence)
            coarse.append(_areas(model, easy))
            fine.append(_areas(model, hard))
            if visit is not None:
                visit(easy, hard)
    model.backbone.eta = own_eta
    return ExitAnswers(
        names, np.array(confidence), np.stack(coarse), np.stack(fine)
    )


def _copy(batch: dict) -> dict:
    """A batch whose samples a prediction may write to."""
    samples = [sample.clone() for sample in batch['data_samples']]
    return dict(batch, data_samples=samples)


def _areas(model: nn.Module, sample: BaseDataElement) -> np.ndarray:
    return class_areas(
        sample.pred_sem_seg.data[0].cpu(),
        sample.gt_sem_seg.data[0].cpu().long(),
        model.num_classes,
        model.decode_head.ignore_index,
    )


def sweep_eta(answers: ExitAnswers, etas: Sequence[float]) -> list[Record]:
    """Replay the exit decision at each threshold.

    Returns:
        'eta', 'exit_rate' and 'mIoU' (percent) for each of ``etas``.
    """
    confidence = torch.from_numpy(answers.confidence)
    records = []
    for eta in etas:
        exited = exits(confidence, eta).numpy()
        records.append(
            dict(
                eta=float(eta),
                exit_rate=float(exited.mean()),
                mIoU=answers.miou(exited),
            )
        )
    return records


def random_curve(
    answers: ExitAnswers, rates: Sequence[float], num_draws: int = 20
) -> list[Record]:
    """What exits at random give: the least that confidence must beat.

    Args:
        answers: Both answers.
        rates: Shares of images that exit.
        num_draws: Draws to average over.

    Returns:
        'exit_rate' and 'mIoU' for each rate.
    """
    rng = np.random.default_rng(0)
    total = len(answers.names)
    records = []
    for rate in rates:
        count = round(rate * total)
        scores = [
            answers.miou(rng.permutation(total) < count)
            for _ in range(num_draws)
        ]
        records.append(
            dict(exit_rate=count / total, mIoU=float(np.mean(scores)))
        )
    return records


def oracle_curve(answers: ExitAnswers, rates: Sequence[float]) -> list[Record]:
    """What exits of the images that lose least give.

    Greedy by each image's own loss of mean IoU: close to the best, which
    would need a search over subsets.

    Returns:
        'exit_rate' and 'mIoU' for each rate.
    """
    coarse, fine = answers.qualities()
    ranks = np.empty(len(coarse), dtype=int)
    ranks[np.argsort(fine - coarse, kind='stable')] = np.arange(len(coarse))
    records = []
    for rate in rates:
        count = round(rate * len(ranks))
        records.append(
            dict(
                exit_rate=count / len(ranks),
                mIoU=answers.miou(ranks < count),
            )
        )
    return records


def exit_auroc(answers: ExitAnswers, tolerance: float = 0.02) -> float:
    """How well confidence tells where the coarse answer is as good.

    Args:
        answers: Both answers.
        tolerance: Loss of an image's mean IoU that still counts as good.

    Returns:
        Area under the ROC curve: the chance that an image whose coarse
        answer is as good as the fine one has more confidence than one whose
        is not; NaN where there are none of either.
    """
    coarse, fine = answers.qualities()
    good = coarse >= fine - tolerance
    positive = answers.confidence[good][:, None]
    negative = answers.confidence[~good][None]
    if not positive.size or not negative.size:
        return float('nan')
    wins = (positive > negative) + 0.5 * (positive == negative)
    return float(wins.mean())
