"""Clear errors for datasets that are not where a config says."""

from pathlib import Path

from mmengine.config import ConfigDict


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
