"""Training batches of noise, made by what packs a config's own samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from torch import Tensor, nn

from mmscope.benchmark.build import default_shape
from mmscope.datasets.wrappers import inner_datasets
from mmscope.utils.config import type_name

BLOCK = 32  # side of what a mask has of one class, pixels
OBJECTS = 20  # of an image, where no sampler says how many are learned from


def noise_batch(cfg: Config, model: nn.Module, number: int) -> dict:
    """Make a batch as the model's loss takes it, see :func:`noise_samples`.

    Args:
        cfg: Complete config, with the pipeline of its training.
        model: Model of the config, whose preprocessor is used.
        number: Images B.

    Returns:
        Keyword arguments of the model: ``inputs`` (B, 3, H, W) and
        ``data_samples``.
    """
    samples = noise_samples(cfg, model, number)
    return model.data_preprocessor(samples, training=True)


def noise_samples(cfg: Config, model: nn.Module, number: int) -> dict:
    """Make a batch as a loader gives it, at the size of training.

    Images are noise. Masks are blocks of random classes, boxes lie at random.
    Detectors get as many objects as their samplers take positives of, which
    is what a crowded image costs.

    Args:
        cfg: Complete config, with the pipeline of its training.
        model: Model of the config, whose heads know the classes.
        number: Images B.

    Returns:
        ``inputs``, B images (3, H, W), and ``data_samples``, as lists.

    Raises:
        ValueError: the config has no pipeline that packs samples.
    """
    steps, shape = _packing(cfg), training_shape(cfg)
    classes, objects = num_classes(model), _positives(cfg.model)
    samples = []
    for seed in range(number):
        sample = _sample(shape, classes, objects, seed)
        for step in steps:
            sample = step(sample)
        samples.append(sample)
    return {key: [one[key] for one in samples] for key in samples[0]}


def num_classes(model: nn.Module) -> int:
    """The fewest classes that a head of the model knows.

    Raises:
        ValueError: no head says how many it knows.
    """
    found = [
        int(module.num_classes)
        for module in model.modules()
        if isinstance(getattr(module, 'num_classes', None), int)
    ]
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no head with num_classes, for which '
            'targets could be made; give the config of a segmentor, detector '
            'or classifier'
        )
    return max(1, min(found))


def training_shape(cfg: Config) -> tuple[int, int]:
    """Height and width that a config trains on.

    That of the last crop or resize of its pipeline, the larger where it
    chooses among several; else see :func:`default_shape`.

    Args:
        cfg: Complete config.
    """
    for step in reversed(_pipeline(cfg)):
        name = type_name(step)
        if name in ('RandomCrop', 'CenterCrop'):
            size = step.get('crop_size')
        elif name in ('RandomResizedCrop', 'Resize', 'RandomChoiceResize'):
            size = step.get('scale') or step.get('scales')
        else:
            continue
        if isinstance(size, int):
            return size, size
        if isinstance(size, list) and size and not isinstance(size[0], int):
            size = max(size)
        if isinstance(size, tuple | list) and len(size) == 2:
            # mmcv's resize takes the width first
            return tuple(size[::-1] if name.endswith('Resize') else size)
    return default_shape(cfg)


def _pipeline(cfg: Config) -> list[dict]:
    """The pipeline of training, of the dataset that reads files."""
    loader = cfg.get('train_dataloader') or {}
    dataset = next(inner_datasets(loader.get('dataset') or {}))
    return dataset.get('pipeline') or []


def _packing(cfg: Config) -> list:
    """What loads annotations and packs in the pipeline of training."""
    pipeline = _pipeline(cfg)
    if not pipeline or not type_name(pipeline[-1]).startswith('Pack'):
        raise ValueError(
            f'the train_dataloader of {cfg.filename} has no pipeline that '
            "ends with a transform that packs, such as dict(type='"
            "PackSegInputs'); add one"
        )
    wanted = [
        step
        for step in pipeline
        if type_name(step) == 'LoadAnnotations'
        and (step.get('with_bbox') or step.get('with_mask'))
    ]
    return [TRANSFORMS.build(dict(step)) for step in (*wanted, pipeline[-1])]


def _positives(model: Mapping) -> int:
    """Objects of an image that a detector learns from at most."""
    taken = [round(n * share) for n, share in samplers(model, 'rcnn')]
    return max(taken, default=OBJECTS)


def samplers(model: Mapping, part: str) -> list[tuple[int, float]]:
    """Boxes and share of positives that a detector's samplers take.

    Args:
        model: Config of the model.
        part: Name of the part in ``train_cfg``, such as 'rcnn'.
    """
    found = (model.get('train_cfg') or {}).get(part) or []
    found = found if isinstance(found, list | tuple) else [found]
    samplers = [stage.get('sampler') or {} for stage in found]
    return [
        (one['num'], one.get('pos_fraction', 1.0))
        for one in samplers
        if 'num' in one
    ]


def _sample(
    size: tuple[int, int], classes: int, objects: int, seed: int
) -> dict:
    """What a dataset hands to its pipeline, as if files had been read."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(
        classes, size=(-(-height // BLOCK), -(-width // BLOCK))
    )
    mask = coarse.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
    corners = rng.uniform(0, 0.8, (objects, 2))
    ends = corners + rng.uniform(0.05, 0.2, (objects, 2))
    boxes = np.hstack([corners, ends]) * [width, height, width, height]
    return dict(
        img=rng.integers(256, size=(height, width, 3), dtype=np.uint8),
        img_path=f'noise_{seed}.jpg',
        img_id=seed,
        img_shape=size,
        ori_shape=size,
        height=height,
        width=width,
        gt_label=np.array([rng.integers(classes)]),
        gt_seg_map=mask.astype(np.uint8),
        seg_fields=['gt_seg_map'],
        instances=[_instance(box, rng.integers(classes)) for box in boxes],
    )


def _instance(box: np.ndarray, label: int) -> dict:
    left, top, right, bottom = box.tolist()
    outline = [left, top, right, top, right, bottom, left, bottom]
    return dict(
        bbox=[left, top, right, bottom],
        bbox_label=int(label),
        mask=[outline],
        ignore_flag=0,
    )


def total_loss(losses: Mapping[str, Tensor | list[Tensor]]) -> Tensor:
    """The sum of all losses, which training goes back from.

    Args:
        losses: Losses as models of OpenMMLab return them.
    """
    parts = [
        part.mean()
        for name, value in losses.items()
        if 'loss' in name
        for part in (value if isinstance(value, list | tuple) else [value])
    ]
    return torch.stack([part.float() for part in parts]).sum()
