"""Clear errors for datasets that are not where a config says."""

import json
from pathlib import Path

from mmengine.config import ConfigDict

from mmscope.utils.config import metric_configs


def check_dataset(dataloader: ConfigDict | None) -> None:
    """Refuse a dataloader whose folders or annotation file are missing.

    Args:
        dataloader: Config with a ``dataset`` that has ``data_root`` and
            ``data_prefix``; others are left to their own checks.

    Raises:
        FileNotFoundError: something is missing; the expected tree is shown.
    """
    dataset = (dataloader or {}).get('dataset') or {}
    root, prefix = dataset.get('data_root'), dataset.get('data_prefix')
    if not root or not prefix:
        return
    paths = [*prefix.values(), dataset.get('ann_file') or '']
    missing = {path for path in paths if not (Path(root) / path).exists()}
    if not missing:
        return
    tree = '\n'.join(
        f'    {path}{"    <- missing" if path in missing else ""}'
        for path in sorted(filter(None, paths))
    )
    raise FileNotFoundError(
        f'the dataset of type {dataset.type} is not complete; expected below '
        f'data_root={root!r}:\n{root}\n{tree}\nPut it there, or set '
        'data_root with --cfg-options train_dataloader.dataset.data_root=... '
        '(val_ and test_dataloader likewise)'
    )


def check_evaluator(name: str, evaluator: object) -> None:
    """Refuse an evaluator with a metric whose annotation file is missing.

    Args:
        name: Name of the evaluator in the config.
        evaluator: Config of its metrics, or None.

    Raises:
        FileNotFoundError: there is no such file.
    """
    for index, metric in enumerate(metric_configs(evaluator)):
        path = metric.get('ann_file')
        if path and not Path(path).is_file():
            key = f'{name}.{index}' if isinstance(evaluator, list) else name
            raise FileNotFoundError(
                f'{key}.ann_file={path!r} does not exist; it belongs to the '
                f'dataset: set both, with --cfg-options {key}.ann_file=...'
            )


def check_annotations(dataset: ConfigDict) -> None:
    """Refuse a dataset whose json file is corrupt or not COCO's.

    It parses the file, which takes a while for all of COCO: call it where
    loading has failed, to say why.

    Args:
        dataset: Config of a dataset; those without a json are left alone.

    Raises:
        ValueError: the file is no json, or lacks COCO's lists.
    """
    ann_file = dataset.get('ann_file') or ''
    if not ann_file.endswith('.json'):
        return
    path = Path(dataset.get('data_root') or '') / ann_file
    try:
        content = json.loads(path.read_text())
    except ValueError as err:
        raise ValueError(
            f'{path} is not valid json: {err}; the file is corrupt, restore it'
        ) from err
    keys = ('images', 'annotations', 'categories')
    lists = content if isinstance(content, dict) else {}
    if missing := [key for key in keys if key not in lists]:
        raise ValueError(
            f'{path} is no COCO annotation file: it needs the lists {keys} '
            f'and lacks {missing}; choose another ann_file'
        )
