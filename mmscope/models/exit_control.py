"""Set, collect and replay how a model decides about exits."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from mmscope.functional.checks import check_choice, check_share
from mmscope.registry import MODELS
from mmscope.utils.config import type_name
from mmscope.utils.structures import unwrap

from .cell_scores import CellScore, score_class
from .exit_context import changed_context, exit_context
from .exit_policies import ExitPolicy
from .mambascope import MambaScopeBackbone
from .scope_options import CHOICES, check_alpha, check_tau
from .scope_result import ScopeResult


def has_exits(model_or_cfg: nn.Module | Mapping) -> bool:
    """Tell whether a model, or that of a config, decides about exits.

    Args:
        model_or_cfg: A model of any library, a backbone, or the config of
            either; a whole config is looked up at its ``model``. A type may
            be a name, with or without its scope, or the class itself.
    """
    if isinstance(model_or_cfg, nn.Module):
        net = backbone_of(model_or_cfg)
        exit_head = getattr(net, 'exit_head', None)
        return isinstance(net, MambaScopeBackbone) and exit_head is not None
    cfg = backbone_config(model_or_cfg)
    kind = cfg.get('type')
    if isinstance(kind, str):
        scope = model_or_cfg.get('default_scope')
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind) or MODELS.get(kind)
    is_scope = isinstance(kind, type) and issubclass(kind, MambaScopeBackbone)
    return is_scope and cfg.get('exit_head', {}) is not None


def require_exits(model_or_cfg: nn.Module | Mapping, what: str) -> None:
    """Refuse models that have no early exit.

    Args:
        model_or_cfg: Model, backbone or config, as for :func:`has_exits`.
        what: Subject of the error, such as an option or a tool.

    Raises:
        ValueError: the model never decides.
    """
    if not has_exits(model_or_cfg):
        net = (
            type(backbone_of(model_or_cfg)).__name__
            if isinstance(model_or_cfg, nn.Module)
            else type_name(backbone_config(model_or_cfg))
        )
        raise ValueError(
            f'{what} needs a model with early exits, and this one, whose '
            f'backbone is {net or None}, has no exit head: take one whose '
            "backbone is a 'mmscope.MambaScopeBackbone' with exit_head set"
        )


def backbone_config(cfg: Mapping) -> Mapping:
    """The backbone's part of the config of a run, model or backbone."""
    cfg = cfg.get('model', cfg)
    return cfg.get('backbone') or cfg


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone of a model, wrapped or not; a backbone is its own."""
    model = unwrap(model)
    return getattr(model, 'backbone', model)


def is_elastic(model: nn.Module) -> bool:
    """Tell whether a model refines as many cells as an image needs.

    Args:
        model: A model of any library, wrapped or not, or a backbone.
    """
    net = backbone_of(model)
    if not isinstance(net, MambaScopeBackbone):
        return False
    return len(net.shares) > 1 or net.tau is not None


@contextmanager
def exit_settings(
    model: nn.Module,
    eta: float | None = None,
    policy: dict | ExitPolicy | None = None,
    resolution: str | None = None,
    compared: Mapping[str, dict | ExitPolicy] | None = None,
    alpha: float | Sequence[float] | None = None,
    tau: float | None = None,
    cell_score: dict | CellScore | None = None,
) -> Iterator[None]:
    """Change how a model decides what to refine, inside a block.

    It holds for every way to run the model, or its backbone alone, in the
    thread that entered the block; nothing is set on the model. Blocks may be
    nested: what an inner one leaves out, the outer one decides.

    Args:
        model: A segmentor or detector of mmscope, or any other model whose
            backbone is a :class:`MambaScopeBackbone`, or that backbone.
        eta: Threshold.
        policy: Exit policy, or its config.
        resolution: Exit resolution, 'fine' or 'coarse'.
        compared: Policies, or their configs, that judge beside and decide
            nothing: predictions carry their confidences as
            ``exit_confidences``, by the same names.
        alpha: Share of cells to refine, or several of them.
        tau: Score above which a cell is worth refining; -inf refines all
            that ``alpha`` allows.
        cell_score: Score of the cells, or its config.

    Raises:
        TypeError: the model has no such backbone.
        ValueError: a value is out of range, or the backbone has no exit
            head.

    Examples:
        >>> net = MambaScopeBackbone('tiny', eta=0.7).eval()
        >>> with exit_settings(net, policy=dict(type='mmscope.ForcedExit',
        ...                                     share=0.5)):
        ...     net.scope(torch.rand(2, 3, 64, 64)).exited.tolist()
        [True, False]
    """
    net = _scope_backbone(model)
    if eta is not None:
        check_share('eta', eta)
    if resolution is not None:
        check_choice('resolution', resolution, CHOICES['exit_resolution'])
    if net.exit_head is None and (policy or compared or eta not in (None, 1)):
        raise ValueError(
            'the backbone has exit_head=None, so that there is nothing to '
            'judge: build it with one, or use eta=1 without a policy'
        )
    given = dict(eta=eta, resolution=resolution, tau=check_tau(tau))
    if alpha is not None:
        ladder = check_alpha(alpha)
        given['shares'] = ladder if isinstance(ladder, tuple) else (ladder,)
    if policy is not None:
        given['policy'] = _build(policy, net)
    if cell_score is not None:
        if isinstance(cell_score, Mapping):
            score_class(cell_score)
        given['cell_score'] = _build(cell_score, net)
    context = exit_context(net)
    changed = {k: value for k, value in given.items() if value is not None}
    changes = dict(settings={**context.settings, **changed})
    if compared is not None:
        changes['compared'] = {
            name: _build(one, net) for name, one in compared.items()
        }
    with changed_context(net, **changes):
        yield


@contextmanager
def collect_passes(model: nn.Module) -> Iterator[list[ScopeResult]]:
    """Collect the record of every pass of a model inside the block.

    Args:
        model: Model or backbone, as for :func:`exit_settings`.
    """
    net, passes = _scope_backbone(model), []
    records = (*exit_context(net).records, passes)
    with changed_context(net, records=records):
        yield passes


@contextmanager
def coarse_answers(
    model: nn.Module, passes: Sequence[ScopeResult]
) -> Iterator[None]:
    """Let a model answer with what its coarse passes found, at no pass more.

    Args:
        model: Model or backbone, as for :func:`exit_settings`.
        passes: Records of :func:`collect_passes`; the block gives the model
            the same images in the same order.
    """
    net = _scope_backbone(model)
    replayed = (one.all_exited() for one in list(passes))
    # no pass is run, so that those around have nothing to collect
    with changed_context(net, replayed=replayed, records=()):
        yield


def _scope_backbone(model: nn.Module) -> MambaScopeBackbone:
    net = backbone_of(model)
    if not isinstance(net, MambaScopeBackbone):
        raise TypeError(
            'exits need a model whose backbone is a mmscope.'
            f'MambaScopeBackbone, got {type(model).__name__} with '
            f'{type(net).__name__}'
        )
    return net


def _build(part: dict | nn.Module, net: MambaScopeBackbone) -> nn.Module:
    if isinstance(part, nn.Module):
        return part
    return MODELS.build(part).to(net.cls_token.device).eval()
