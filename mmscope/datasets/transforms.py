"""Data transforms."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmscope.registry import TRANSFORMS

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
                f'{path} has the labels {bad.tolist()}, allowed are 0 to '
                f'{self.num_classes - 1} and {self.ignore_index} (ignored); '
                'fix num_classes, ignore_index or reduce_zero_label, which '
                'makes 255 of 0'
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
        f'{path} has the shape {mask.shape}; a mask has one channel, the '
        f'class index of each pixel, (H, W): {fix}'
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
        f'{path} is {mask.shape[0]} x {mask.shape[1]} (H x W), its image '
        f'{results.get("img_path")} is {size[0]} x {size[1]}; a mask has '
        f'the size of its image: {fix}'
    )


@TRANSFORMS.register_module()
class LoadChecked(BaseTransform):
    """Run a loading transform; where it fails, say on which file.

    Args:
        transform: Config of a loading transform of mmcv, mmseg or mmdet.
        num_classes: Refuse masks with labels from here on; None does not
            look.
        ignore_index: Label that is no class.
    """

    def __init__(
        self,
        transform: dict,
        num_classes: int | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.loader = TRANSFORMS.build(transform)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Load one sample.

        Raises:
            OSError: its file cannot be read.
            ValueError: its mask has labels that are no class.
        """
        name = type(self.loader).__name__
        files = {k: results[k] for k in FILE_KEYS if results.get(k)}
        try:
            results = self.loader(results)
        except Exception as err:  # decoders raise anything
            raise OSError(
                f'{name} cannot read {files}: {err}; the file is corrupt or '
                'missing, restore or remove it'
            ) from err
        if self.num_classes is not None and 'gt_seg_map' in results:
            self._check_labels(results)
        return results

    def _check_labels(self, results: dict) -> None:
        labels = np.unique(results['gt_seg_map'])
        bad = labels[
            (labels >= self.num_classes) & (labels != self.ignore_index)
        ]
        if len(bad):
            raise ValueError(
                f'{results["seg_map_path"]} has the labels {bad.tolist()}, '
                f'allowed are 0 to {self.num_classes - 1} and '
                f'{self.ignore_index} (ignored); fix num_classes or '
                'reduce_zero_label'
            )


def check_loading(
    node: object,
    num_classes: int | None = None,
    ignore_index: int = 255,
) -> None:
    """Wrap the loading transforms of a dataloader's config, in place.

    Args:
        node: Config, or a part of it.
        num_classes: See :class:`LoadChecked`; for annotations.
        ignore_index: See :class:`LoadChecked`; for annotations.
    """
    if isinstance(node, dict):
        for value in node.values():
            check_loading(value, num_classes, ignore_index)
    elif isinstance(node, list):
        for index, step in enumerate(node):
            name = _type_of(step)
            if name == 'LoadImageFromFile':
                node[index] = dict(type='mmscope.LoadChecked', transform=step)
            elif name == 'LoadAnnotations':
                node[index] = dict(
                    type='mmscope.LoadChecked',
                    transform=step,
                    num_classes=num_classes,
                    ignore_index=ignore_index,
                )
            else:
                check_loading(step, num_classes, ignore_index)


def _type_of(node: object) -> str:
    """The type of a config without its scope, or '' if it has none."""
    name = node.get('type', '') if isinstance(node, dict) else ''
    return name.split('.')[-1] if isinstance(name, str) else ''
