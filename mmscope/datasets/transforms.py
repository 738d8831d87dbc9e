"""Data transforms."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmscope.registry import TRANSFORMS

FILE_KEYS = ('img_path', 'seg_map_path')


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
