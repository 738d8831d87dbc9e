"""Labels that a teacher gave."""

from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmscope.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSoftLabels(BaseTransform):
    """Mix the label of an image with what a teacher says of it.

    The mixture becomes ``gt_score``, which heads of mmpretrain and
    MambaScopeClassifier learn instead of ``gt_label``. The teacher runs once,
    ahead of the training (:func:`save_soft_labels` keeps its answers), so
    that it costs the training nothing.

    Args:
        path: File of the answers, of :func:`save_soft_labels`.
        weight: Share of the teacher in the mixture, in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ``weight`` is out of range.
    """

    def __init__(self, path: str, weight: float = 0.5) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f'weight must be in [0, 1], got {weight}')
        if not Path(path).is_file():
            raise FileNotFoundError(
                f'no soft labels at {path}; write them with '
                'mmscope.datasets.save_soft_labels'
            )
        with np.load(path, allow_pickle=False) as file:
            names, scores = file['names'].tolist(), file['scores']
        rows = dict(zip(names, scores, strict=True))
        self.path, self.weight, self.rows = path, weight, rows

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_score``, (K,).

        Args:
            results: With ``img_path`` and ``gt_label``.

        Raises:
            KeyError: the teacher has not seen the image.
            ValueError: the label is none of the teacher's classes.
        """
        name = image_name(results['img_path'])
        if name not in self.rows:
            raise KeyError(
                f'{self.path} has no answer for {name}; run the teacher over '
                'the images of this dataset'
            )
        theirs, label = self.rows[name], int(results['gt_label'])
        if not 0 <= label < len(theirs):
            raise ValueError(
                f'{results["img_path"]} has the label {label}, and '
                f'{self.path} knows the classes 0 to {len(theirs) - 1}'
            )
        score = self.weight * theirs.astype(np.float32)
        score[label] += 1 - self.weight
        results['gt_score'] = score
        return results


def image_name(path: str) -> str:
    """Folder and name of an image, which tell it from all others."""
    return '/'.join(Path(path).parts[-2:])


def save_soft_labels(path: str, answers: dict[str, np.ndarray]) -> None:
    """Keep what a teacher said.

    Args:
        path: File to write, ``.npz``.
        answers: Probabilities (K,) by the path of the image.
    """
    names = [image_name(each) for each in answers]
    if len({*names}) < len(names):
        raise ValueError(
            'two images share their folder and name; rename one of them'
        )
    scores = np.stack([*answers.values()]).astype(np.float16)
    np.savez_compressed(path, names=np.array(names), scores=scores)
