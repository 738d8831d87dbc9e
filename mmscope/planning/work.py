"""Work of a training in multiply-adds, and how long devices take for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mmengine.config import Config
from torch import nn

from mmscope.models.encoder import VimEncoder
from mmscope.utils.flops import MASKS, PROPOSALS, model_flops

from .batches import samplers, training_shape
from .devices import MEASURED, Device

# Measured on an H100, bfloat16: docs/benchmarks/nvidia-h100_torch2.11_
# 2026-11-26_gpu.md. Vim-T, its multiply-adds at 224 and 512 in G.
G_224, G_512 = 1.825, 9.501
IMAGES_PER_SECOND = 2686  # inference at 512, CUDA graphs, batch 64
IMAGES_PER_SECOND_FLOAT32 = 1407
STEP_64_OF_224 = 102.5  # training steps, ms
STEP_16_OF_512 = 91.5
LAYERS = 24
# assumed: a training step works three times as much as its forward pass
STEP_OVER_FORWARD = 3

OPTIMISTIC = STEP_OVER_FORWARD * 1e3 / (IMAGES_PER_SECOND * G_512)
# in these steps the GPU mostly waits for Python
PESSIMISTIC = {
    'classification': STEP_64_OF_224 / (64 * G_224),
    'dense': STEP_16_OF_512 / (16 * G_512),
}
HOST_MS_PER_BLOCK = STEP_16_OF_512 / LAYERS
FLOAT32_OVER_BFLOAT16 = IMAGES_PER_SECOND / IMAGES_PER_SECOND_FLOAT32
CLASSIFICATION_SIDE = 256


class Range(NamedTuple):
    """An estimate, from optimistic to pessimistic."""

    low: float
    high: float


@dataclass(frozen=True)
class Work:
    """What a training step does.

    Attributes:
        shape: Height and width of its images.
        giga: G multiply-adds of an image's forward pass.
        blocks: Blocks of Vim that Python runs one after the other, 0 for
            other backbones.
    """

    shape: tuple[int, int]
    giga: float
    blocks: int


def training_work(cfg: Config, model: nn.Module) -> Work:
    """Count what a training step runs for an image.

    Both passes of a backbone with exits, with every cell refined where the
    model was built with alpha = 1; auxiliary heads; the coarse maps that are
    decoded for a loss; of detectors as many regions as their samplers take.

    Args:
        cfg: Complete config, whose size of training counts.
        model: Model of the config.
    """
    taken = samplers(cfg.model, 'rcnn')
    regions = dict(
        proposals=max((n for n, _ in taken), default=PROPOSALS),
        masks=max((round(n * share) for n, share in taken), default=MASKS),
    )
    shape = training_shape(cfg)
    counted = model_flops(model, shape, training=True, **regions)
    net, blocks = model.backbone, 0
    if isinstance(net, VimEncoder):
        blocks = len(net.layers) * (2 if hasattr(net, 'scope') else 1)
    return Work(tuple(shape), counted.refined.total() / 1e9, blocks)


def milliseconds_per_giga(
    work: Work, device: Device = MEASURED, amp: bool = True
) -> Range:
    """Time that a device takes for the training of a G of forward pass.

    The optimistic figure is scaled from the H100's by memory bandwidth, and
    is no less than the products take at full speed. The pessimistic one is
    the H100's, which is the host's time, and what the device takes longer
    than an H100 comes on top. Without mixed precision the device takes
    1.9 times as long, as inference did on the H100.

    Args:
        work: What is trained.
        device: One of the table.
        amp: Whether training is in mixed precision.

    Raises:
        ValueError: the device's bandwidth is not known.
    """
    if not device.bandwidth:
        raise ValueError(
            f'the bandwidth of {device.name} is not known: time is measured '
            'there, or estimated for a device of the table'
        )
    scale = MEASURED.bandwidth / device.bandwidth
    scale *= 1 if amp else FLOAT32_OVER_BFLOAT16
    # a multiply-add is two operations
    products = STEP_OVER_FORWARD * 2 / device.tflops
    low = max(OPTIMISTIC * scale, products)
    small = max(work.shape) <= CLASSIFICATION_SIDE
    host = PESSIMISTIC['classification' if small else 'dense']
    return Range(low, host + max(0.0, low - OPTIMISTIC))


def step_milliseconds(
    work: Work, batch: int, device: Device, amp: bool
) -> Range:
    """Time of a training step of one process.

    However small the batch, pessimistically Python takes as long for every
    block of Vim as it did on the H100's host.

    Args:
        work: What is trained.
        batch: Images of the process.
        device: One of the table.
        amp: Whether training is in mixed precision.
    """
    low, high = milliseconds_per_giga(work, device, amp)
    giga = batch * work.giga
    return Range(giga * low, max(giga * high, work.blocks * HOST_MS_PER_BLOCK))


def hours_between(images: float, work: Work, per_giga: Range) -> Range:
    """Device hours that so many images take in training.

    Args:
        images: Images, each time that one is shown.
        work: What is done for each.
        per_giga: Milliseconds for a G.
    """
    giga = images * work.giga / 3.6e6
    return Range(giga * per_giga.low, giga * per_giga.high)
