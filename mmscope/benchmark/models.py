"""The models that fps_bench compares, and what it runs of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmscope.engine.launch import load_config
from mmscope.models import (
    EarlyExitMixin,
    Importance,
    MambaScopeBackbone,
    VisionMambaBackbone,
    has_exits,
    is_elastic,
)
from mmscope.utils.checkpoint import load_weights
from mmscope.utils.flops_trace import on_meta, trace
from mmscope.utils.installed import shared_folder

from .build import build_model
from .official_vim import OfficialVim

SCOPES = ('backbone', 'fpn', 'head')
FPNS = ('config', 'full')
BASE = dict(
    backbone=dict(arch='base'),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
OFFICIAL = dict(backbone=dict(type='mmscope.OfficialVim'))
# the config of each name, and what differs from it
NAMED: dict[str, tuple[str, dict]] = {
    'mambascope_t': ('mambascope_t', {}),
    'mambascope_s': ('mambascope_s', {}),
    'mambascope_b': ('mambascope_s', BASE),
    'vim_t': ('vim_t', {}),
    'vim_s': ('vim_s', {}),
    'vim_b': ('vim_s', BASE),
    'vim_t_dyvm': ('vim_t_dyvm', {}),
    'vim_s_dyvm': ('vim_s_dyvm', {}),
    'vim_t_rmeeto': ('vim_t_rmeeto', {}),
    'vim_s_rmeeto': ('vim_s_rmeeto', {}),
    'vim_t_hiddenalign': ('vim_t_hiddenalign', {}),
    'vim_s_hiddenalign': ('vim_s_hiddenalign', {}),
    'official_vim_t': ('vim_t', OFFICIAL),
    'official_vim_s': ('vim_s', OFFICIAL),
    'deit_t': ('deit_t', {}),
    'deit_s': ('deit_s', {}),
    'resnet50': ('resnet50', {}),
}
Maps = tuple[Tensor, ...]


@dataclass
class BenchModel:
    """A model to measure.

    Attributes:
        name: What it is called.
        model: With backbone, maybe neck and decode head, in evaluation mode.
        pyramid: What makes a pyramid of the backbone's maps, or why nothing
            can, as of a classifier's.
        channels: Channels of what the backbone returns last.
    """

    name: str
    model: BaseModel
    pyramid: nn.Module | str
    channels: int

    @property
    def net(self) -> nn.Module:
        return self.model.backbone

    @property
    def early_exit(self) -> bool:
        """Whether it can decide about exits."""
        return has_exits(self.net)

    @property
    def refines(self) -> bool:
        """Whether it refines a share of the cells."""
        return isinstance(self.net, MambaScopeBackbone)

    @property
    def elastic(self) -> bool:
        """Whether it refines as many cells as an image needs."""
        return is_elastic(self.model)

    @property
    def decodes(self) -> bool:
        """Whether exits or cells are chosen by what coarse maps decode to."""
        return self.early_exit and self.net.exit_settings.decodes

    @property
    def divisor(self) -> int:
        """Multiple that image sides are padded to."""
        return getattr(self.net, 'size_divisor', 1)

    @property
    def head(self) -> nn.Module | None:
        return getattr(self.model, 'decode_head', None)

    def why_not(self, scope: str) -> str | None:
        """Why a scope cannot be run, None if it can."""
        if scope != 'backbone' and isinstance(self.pyramid, str):
            return self.pyramid
        if scope == 'head' and self.head is None:
            return f'{self.name} has no decode_head'
        return None

    def parameters(self, scope: str) -> int:
        """Number of parameters of what a scope runs, 0 if it cannot."""
        if self.why_not(scope):
            return 0
        parts = dict(
            backbone=(self.net,),
            fpn=(self.net, self.pyramid),
            head=(self.model,),
        )[scope]
        return sum(p.numel() for part in parts for p in part.parameters())

    @property
    def is_vim(self) -> bool:
        """Whether it is the baseline that others are compared with."""
        is_vim = isinstance(self.net, VisionMambaBackbone)
        reduced = getattr(self.net, 'token_reduction', None) is not None
        return is_vim and not self.is_official and not reduced

    @property
    def is_official(self) -> bool:
        """Whether it runs the official Vim's sequence of calls."""
        return isinstance(self.net, OfficialVim)


def named_config(name: str) -> Config:
    """The UperNet config of a model by its name.

    Raises:
        ValueError: there is no such name.
        FileNotFoundError: mmscope is installed without its configs.
    """
    if name not in NAMED:
        raise ValueError(
            f'--models takes {sorted(NAMED)}, got {name!r}; for other models '
            'use --configs'
        )
    base, changes = NAMED[name]
    path = shared_folder() / 'configs/upernet' / f'{base}_ade20k.py'
    if not path.is_file():
        raise FileNotFoundError(
            f'--models {name} reads {path}, which is not there: run from a '
            'clone of the repository, or use --configs'
        )
    cfg = load_config(str(path))
    cfg.merge_from_dict(dict(model=changes))
    return cfg


def prepare_model(
    name: str,
    cfg: Config,
    fpn: str = 'config',
    checkpoint: str | None = None,
    device: str = 'cpu',
) -> BenchModel:
    """Build the model of a config.

    Args:
        name: What it is called.
        cfg: Config of the model.
        fpn: 'config' takes the config's neck (Feature2Pyramid for plain
            backbones), 'full' adds mmdet's FPN of 256 channels behind it.
        checkpoint: Weights; random without.
        device: Device that it runs on.

    Raises:
        CheckpointError: the checkpoint is truncated, none, or of another
            model.
    """
    model = build_model(cfg)
    if checkpoint is not None:
        load_weights(model, checkpoint, cfg.filename)
    maps = _maps_of(model.backbone)
    channels = maps[-1].shape[1]
    pyramid = _make_pyramid(getattr(model, 'neck', None), maps, cfg)
    if isinstance(pyramid, str):
        model.to(device, memory_format=torch.channels_last)
        return BenchModel(name, model, pyramid, channels)
    if fpn == 'full':
        _, maps = trace(on_meta(pyramid), lambda pyramid: pyramid(maps))
        behind = MODELS.build(
            dict(
                type='mmdet.FPN',
                in_channels=[m.shape[1] for m in maps],
                out_channels=256,
                num_outs=5,
            )
        )
        pyramid = nn.Sequential(pyramid, behind)
    pyramid.eval()
    for part in (model, pyramid):  # the same for all, see MambaScopeSegmentor
        part.to(device, memory_format=torch.channels_last)
    return BenchModel(name, model, pyramid, channels)


def _maps_of(net: nn.Module) -> Maps:
    """What the backbone makes of a small image: maps, or tokens."""
    side = 2 * max(getattr(net, 'size_divisor', 32), 32)
    image = torch.empty(1, 3, side, side, device='meta')
    net = on_meta(net)
    if isinstance(net, MambaScopeBackbone):  # nobody asks for its decisions
        net.eta, net.exit_policy, net.tau = 1.0, None, None
        net.cell_score = Importance()
    _, maps = trace(net, lambda net: net(image))
    return tuple(maps) if isinstance(maps, tuple | list) else (maps,)


def _make_pyramid(
    neck: nn.Module | None, maps: Maps, cfg: Config
) -> nn.Module | str:
    """The neck, or what can stand for it, or why nothing can."""
    shapes = [tuple(getattr(m, 'shape', ())) for m in maps]
    if not all(len(shape) == 4 for shape in shapes):
        return (
            f'no pyramid can be made of what the backbone of {cfg.filename} '
            f'returns, {shapes}: it must be maps (B, C, h, w); set '
            "out_type='featmap', or --scopes backbone"
        )
    if neck is not None:
        return neck
    sides = [shape[-1] for shape in shapes]
    if len(maps) > 1 and sides == sorted(set(sides), reverse=True):
        return nn.Identity()
    if len(maps) == 4 and len(set(shapes)) == 1:
        settings = dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=maps[0].shape[1],
            rescales=[4, 2, 1, 0.5],
        )
        return revert_sync_batchnorm(MODELS.build(settings))
    return (
        f'no pyramid can be made of the maps of {cfg.filename}, {shapes}: '
        'give it a neck, or a backbone with four out_indices, or --scopes '
        'backbone'
    )


def run_batch(
    bench: BenchModel,
    scope: str,
    images: Tensor,
    valid: Tensor | None,
) -> list:
    """Run one batch, as far as a scope reaches.

    Args:
        bench: The model.
        scope: 'backbone', 'fpn', or 'head', which ends at the decode logits.
        images: Padded, (B, 3, H, W).
        valid: Which coarse cells show some of an image.
    """
    if not isinstance(bench.net, MambaScopeBackbone):
        return [run_tail(bench, scope, bench.net(images))]
    with deciding(bench.model, images):
        result = bench.net.scope(images, valid)
    evidence = result.decision.evidence
    if scope == 'head' and evidence and evidence.decoded is not None:
        # a policy that looked at pixels has decoded the coarse maps
        rest = [] if result.fine is None else [result.fine.maps]
        return [evidence.decoded, *(run_tail(bench, scope, m) for m in rest)]
    if bench.net.exit_settings.resolution == 'fine':
        return [run_tail(bench, scope, result.features)]
    return [run_tail(bench, scope, maps) for _, maps in result.groups()]


def deciding(model: BaseModel, images: Tensor) -> AbstractContextManager:
    """Let exit policies look at pixels, where the model decodes them."""
    if isinstance(model, EarlyExitMixin):
        return model.deciding(images)
    return nullcontext()


def run_tail(bench: BenchModel, scope: str, maps: Maps) -> Maps | Tensor:
    """Run what comes behind the backbone."""
    if scope == 'backbone':
        return maps
    if scope == 'fpn':
        return bench.pyramid(maps)
    neck = getattr(bench.model, 'neck', None)
    return bench.head(maps if neck is None else neck(maps))
