"""Data transforms."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmscope.registry import TRANSFORMS

from .images import check_finite
from .problems import Problem

FILE_KEYS = ('img_path', 'seg_map_path')


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Refuse masks that cannot be the labels of their image.

    Its place is right behind LoadAnnotations. Samples without a mask pass,
    so that inferencers may leave LoadAnnotations out.

    Args:
        num_classes: Number of classes K; labels are 0 .. K - 1.
        ignore_index: Label of pixels that belong to no class.

    Raises:
        ValueError: ``num_classes`` is not positive.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(
                f'num_classes must be positive, got {num_classes}'
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Look at ``gt_seg_map``, which stays as it is.

        Raises:
            ValueError: it has several channels, another size than its image,
                or labels that are no class.
        """
        mask = results.get('gt_seg_map')
        if mask is not None:
            path = results.get('seg_map_path', 'gt_seg_map')
            _check_channels(path, mask)
            _check_size(path, mask, results)
            self._check_classes(path, mask)
        return results

    def _check_classes(self, path: str, mask: np.ndarray) -> None:
        labels = np.unique(mask)
        is_class = (labels >= 0) & (labels < self.num_classes)
        bad = labels[~is_class & (labels != self.ignore_index)]
        if len(bad):
            raise ValueError(
                Problem(
                    f'{path} has the labels {bad.tolist()}',
                    f'allowed are 0 to {self.num_classes - 1} and '
                    f'{self.ignore_index} (ignored)',
                    'fix num_classes, ignore_index or reduce_zero_label, '
                    'which makes 255 of 0',
                )
            )


def _check_channels(path: str, mask: np.ndarray) -> None:
    """Refuse masks (H, W, C), and say how to make them (H, W)."""
    if mask.ndim == 2:
        return
    if mask.ndim == 3:
        # alpha is no label
        colours = mask[..., :-1] if mask.shape[-1] in (2, 4) else mask
        fix = GREY_FIX if (colours == colours[..., :1]).all() else COLOUR_FIX
    else:
        fix = 'write it anew'
    raise ValueError(
        Problem(
            f'{path} has the shape {mask.shape}',
            'a mask has one channel, the class index of each pixel, (H, W)',
            fix,
        )
    )


GREY_FIX = (
    'its colour channels are equal, keep the first one, '
    'Image.fromarray(np.asarray(Image.open(path))[..., 0]).save(path)'
)
COLOUR_FIX = (
    'it is a colour picture, give each colour its index, for index, colour '
    'in enumerate(palette): mask[(rgb[..., :3] == colour).all(-1)] = index'
)


def _check_size(path: str, mask: np.ndarray, results: dict) -> None:
    """Refuse masks of another size than their image."""
    size = tuple(results.get('ori_shape', mask.shape)[:2])
    if mask.shape == size:
        return
    if mask.shape == size[::-1]:
        fix = (
            'one of them is turned; if the photo is, by its EXIF tag, load '
            "it with LoadImageFromFile's "
            "color_type='color_ignore_orientation'"
        )
    else:
        fix = 'resize the mask to it, by the nearest neighbour'
    raise ValueError(
        Problem(
            f'{path} is {mask.shape[0]} x {mask.shape[1]} (H x W), its image '
            f'{results.get("img_path")} is {size[0]} x {size[1]}',
            'a mask has the size of its image',
            fix,
        )
    )


@TRANSFORMS.register_module()
class LoadChecked(BaseTransform):
    """Run a loading transform; where it fails, say on which file.

    So it does of images with pixels that are NaN or infinite.

    Args:
        transform: Config of a loading transform of mmcv, mmseg or mmdet.
    """

    def __init__(self, transform: dict) -> None:
        self.loader = TRANSFORMS.build(transform)

    def transform(self, results: dict) -> dict:
        """Load one sample.

        Raises:
            OSError: its file cannot be read.
            ValueError: pixels are not finite.
        """
        name = type(self.loader).__name__
        files = {k: results[k] for k in FILE_KEYS if results.get(k)}
        try:
            loaded = self.loader(results)
        except Exception as err:  # decoders raise anything
            raise OSError(
                Problem(
                    f'{name} cannot read {files}: {err}',
                    'every file can be decoded',
                    'it is corrupt or missing, restore or remove it',
                )
            ) from err
        if 'img' in (loaded or {}):
            check_finite(loaded['img'], str(files.get('img_path', 'img')))
        return loaded


@TRANSFORMS.register_module()
class LoadMask(LoadChecked):
    """mmseg's LoadAnnotations, which names a mask that it cannot read.

    Samples without a mask pass, so that inferencers may leave it in.

    Args:
        **options: LoadAnnotations' own arguments, which it checks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(dict(type='mmseg.LoadAnnotations', **options))

    def transform(self, results: dict) -> dict:
        """Load ``gt_seg_map`` (H, W) from ``seg_map_path``.

        Raises:
            OSError: the file cannot be read.
        """
        has_mask = bool(results.get('seg_map_path'))
        return super().transform(results) if has_mask else results
