"""Clear errors for datasets that are not where a config says."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset

from mmscope.utils.config import metric_configs, type_name

from .coco_checks import check_coco, check_images, check_truth
from .problems import Problem
from .wrappers import inner_datasets


def check_dataset(dataloader: ConfigDict | None) -> None:
    """Refuse a dataloader whose folders or annotation file are missing.

    Args:
        dataloader: Config of a dataloader, or None; of a wrapped ``dataset``,
            those inside are checked. Files that are elsewhere than on this
            machine are left to mmengine.

    Raises:
        FileNotFoundError: something is missing; the expected tree is shown.
        ValueError: a path is a list, or cannot be one over http.
    """
    for dataset in inner_datasets((dataloader or {}).get('dataset') or {}):
        _check_folders(dataset)


def _check_folders(dataset: ConfigDict) -> None:
    root = dataset.get('data_root') or ''
    paths = sorted(set(_paths_of(dataset)))
    _check_addresses(root, paths, dataset)
    if is_remote(root, dataset):
        return
    missing = {
        path
        for path in paths
        if '://' not in path and not (Path(root) / path).exists()
    }
    if not missing:
        return
    tree = '\n'.join(
        f'    {path}{"    <- missing" if path in missing else ""}'
        for path in paths
    )
    raise FileNotFoundError(
        Problem(
            f'the dataset of type {type_name(dataset)} is not complete',
            f'expected below data_root={root!r}:\n{root}\n{tree}\n',
            'put it there, or set data_root with --cfg-options '
            'train_dataloader.dataset.data_root=... (val_ and '
            'test_dataloader likewise)',
        )
    )


def _paths_of(dataset: ConfigDict) -> Iterator[str]:
    """Folders and annotation file of a dataset, as the config has them."""
    prefix = dataset.get('data_prefix') or {}
    if isinstance(prefix, dict):
        given = {f'data_prefix.{key}': path for key, path in prefix.items()}
    else:  # as mmpretrain's datasets have it
        given = {'data_prefix': prefix}
    for name in ('data_root', 'ann_file'):
        given[name] = dataset.get(name) or ''
    for name, path in given.items():
        if not isinstance(path, str | Path):
            raise ValueError(
                Problem(
                    f'{name} of {type_name(dataset)} is {path!r}',
                    'it must be one path',
                    'leave it out where there is none, and give each of '
                    'several a dataset of its own, in dataset=dict(type='
                    "'ConcatDataset', datasets=[...])",
                )
            )
        if path and name != 'data_root':
            yield str(path)


def _check_addresses(root: str, paths: list[str], dataset: ConfigDict) -> None:
    """Refuse what mmengine cannot do over http: join paths, list folders."""
    web = ('http://', 'https://')
    if str(root).startswith(web):
        raise ValueError(
            Problem(
                f'data_root={root!r} of {type_name(dataset)}',
                'mmengine joins no paths over http',
                "set data_root='' and write whole addresses into data_prefix "
                'and ann_file',
            )
        )
    if not dataset.get('ann_file'):
        for path in paths:
            if path.startswith(web):
                raise ValueError(
                    Problem(
                        f'{path!r} of {type_name(dataset)} is a folder',
                        'one cannot be listed over http',
                        'set ann_file to a file with the names of the images',
                    )
                )


def is_remote(root: str, dataset: ConfigDict) -> bool:
    """Whether a dataset's files are read over a network, or from a store.

    Args:
        root: ``data_root`` of the dataset.
        dataset: Config of the dataset.
    """
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    return '://' in str(root) or backend != 'local'


def check_evaluator(name: str, evaluator: object) -> None:
    """Refuse an evaluator whose annotation file is missing.

    Args:
        name: Name of the evaluator in the config.
        evaluator: Config of its metrics, or None.

    Raises:
        FileNotFoundError: there is no such file.
    """
    for key, metric in _ground_truths(name, evaluator):
        if not Path(metric.ann_file).is_file():
            raise FileNotFoundError(
                Problem(
                    f'{key}.ann_file={metric.ann_file!r} does not exist',
                    'it belongs to the dataset',
                    f'set both, with --cfg-options {key}.ann_file=...',
                )
            )


def check_judging(
    name: str,
    evaluator: object,
    dataset: BaseDataset | None,
    cfg: ConfigDict,
) -> None:
    """Refuse metrics that would fail after all predictions have been made.

    Args:
        name: Name of the evaluator in the config.
        evaluator: Config of its metrics, or None.
        dataset: The dataset that goes with it, or None where it could not be
            built.
        cfg: Config of that dataset.

    Raises:
        ValueError: a CocoMetric lacks something; it is named with a fix.
    """
    for key, metric in _ground_truths(name, evaluator):
        if type_name(metric) == 'CocoMetric':
            content = check_truth(metric)
            if dataset is not None:
                check_images(f'{key}.ann_file', content, dataset)
    for metric in metric_configs(evaluator):
        if type_name(metric) == 'CocoMetric' and not metric.get('ann_file'):
            _check_instances(name, cfg)


def _ground_truths(
    name: str, evaluator: object
) -> Iterator[tuple[str, ConfigDict]]:
    """Metrics with an annotation file on this machine, by their keys."""
    for index, metric in enumerate(metric_configs(evaluator)):
        path = metric.get('ann_file')
        if path and not is_remote(path, metric):
            listed = isinstance(evaluator, list)
            yield f'{name}.{index}' if listed else name, metric


def _check_instances(name: str, cfg: ConfigDict) -> None:
    """Refuse a CocoMetric that gets objects neither from file nor sample."""
    for dataset in inner_datasets(cfg):
        for step in dataset.get('pipeline') or ():
            keys = step.get('meta_keys') or ()
            if type_name(step) == 'PackDetInputs' and 'instances' not in keys:
                raise ValueError(
                    Problem(
                        f'CocoMetric of {name} has no ann_file',
                        'it takes objects and classes from a file, or else '
                        'from the samples',
                        'name a file, for example that of the dataset, which '
                        'may have no objects where format_only=True, or add '
                        "'instances' to meta_keys of PackDetInputs",
                    )
                )


def check_annotations(dataset: ConfigDict) -> None:
    """Refuse a dataset whose json file is corrupt or not COCO's.

    It parses the file, which takes a while for all of COCO: call it where
    loading has failed, to say why.

    Args:
        dataset: Config of a dataset; those without a json are left alone.

    Raises:
        ValueError: the file is no json, or lacks what a dataset reads.
    """
    for one in inner_datasets(dataset):
        ann_file = str(one.get('ann_file') or '')
        root = one.get('data_root') or ''
        if ann_file.endswith('.json') and not is_remote(root, one):
            check_coco(Path(root) / ann_file)


def check_names(dataset: BaseDataset, folder: str) -> None:
    """Refuse images whose answers would be written over each other.

    mmseg and mmdet name what they write after an image's file alone.

    Args:
        dataset: Dataset that is tested on.
        folder: Folder that is written to, for the error.

    Raises:
        ValueError: two images in different folders have the same name.
    """
    paths: dict[str, str] = {}
    for info in map(dataset.get_data_info, range(len(dataset))):
        path = str(info['img_path'])
        other = paths.setdefault(Path(path).stem, path)
        if other != path:
            raise ValueError(
                Problem(
                    f'{other} and {path} have the same name',
                    f'what is written to {folder} of one would replace that '
                    'of the other',
                    'rename them, or test one folder after the other',
                )
            )


def check_masks(dataset: object, cfg: ConfigDict) -> None:
    """Refuse objects without masks where a pipeline loads masks.

    Args:
        dataset: The dataset, built.
        cfg: Config of the run.

    Raises:
        ValueError: an object has none; mmdet would fail when it is drawn.
    """
    # a wrapper of someone else may hold what no config shows
    pairs = zip(inner_datasets(dataset), inner_datasets(cfg), strict=False)
    for one, one_cfg in pairs:
        if not any(map(_loads_masks, one_cfg.get('pipeline') or ())):
            continue
        for info in map(one.get_data_info, range(len(one))):
            for index, instance in enumerate(info.get('instances', ())):
                if not instance.get('mask'):
                    raise ValueError(
                        Problem(
                            f'{one_cfg.get("ann_file")}: object {index} of '
                            f'{info["img_path"]} has no segmentation, or an '
                            'empty one',
                            'the pipeline loads masks',
                            'add its outline, remove the object, or set '
                            'with_mask=False in LoadAnnotations and train '
                            'without a mask head',
                        )
                    )


def _loads_masks(step: ConfigDict) -> bool:
    return type_name(step) == 'LoadAnnotations' and step.get('with_mask')


def why_no_samples(dataset: ConfigDict) -> Problem:
    """Say of a dataset without samples where it looked and for what.

    Args:
        dataset: Config of a dataset; of a wrapped one, those inside.
    """
    inner = list(inner_datasets(dataset))
    return Problem(
        '; '.join(
            f'{type_name(one)} found no samples in {one.get("data_root")} '
            f'below {dict(one.get("data_prefix") or {})}'
            for one in inner
        ),
        'there must be one at least',
        '; '.join(map(_reason, inner)),
    )


def _reason(dataset: ConfigDict) -> str:
    ann_file = str(dataset.get('ann_file') or '')
    if ann_file.endswith('.json'):
        return (
            f'{ann_file} has no image with one of its classes '
            '(metainfo.classes) that filter_cfg lets pass'
        )
    if ann_file:
        return f'{ann_file} lists no image'
    return (
        'the folder is empty, or its files do not end in img_suffix (.jpg '
        'by default)'
    )
