"""What decides whether a CUDA graph of modules still says what they do."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from mmscope.ops import forward_mode
from mmscope.ops.backends import wanted_backend

# attributes that every module has, before those of its own
NUM_COMMON = len(vars(nn.Module()))
PLAIN = frozenset({type(None), bool, int, float, str})
# tensors that lie where they say; those of other types may hold several
STORED = frozenset({Tensor, nn.Parameter})
PRECISIONS = (
    torch.backends.cuda.matmul,
    # of convolutions, where torch has one of their own
    getattr(torch.backends.cudnn, 'conv', torch.backends.cudnn),
)


def watched() -> bool:
    """Whether something wants to see every operation, not its result alone."""
    return (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        # tracers, counters of FLOPs; these have no public names
        or is_in_torch_dispatch_mode()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_mode.active()
        # weights that are kept for as long as a block of code
        or parametrize._cache_enabled
    )


def surroundings(x: Tensor) -> Iterator[Hashable]:
    """What, apart from blocks and shape, decides which kernels run."""
    kind = x.device.type
    yield from (x.dtype, x.device, wanted_backend(None))
    yield torch.is_autocast_enabled(kind)
    yield torch.get_autocast_dtype(kind)
    yield from (_precision(one) for one in PRECISIONS)
    yield torch.are_deterministic_algorithms_enabled()
    yield torch.is_inference_mode_enabled()
    if x.is_cuda:
        yield torch.cuda.current_stream(x.device).cuda_stream


def _precision(backend: Any) -> Any:
    """How products in float32 are rounded."""
    if hasattr(backend, 'fp32_precision'):
        # since torch 2.9, where reading the other may raise
        return backend.fp32_precision
    return backend.allow_tf32


def layout_of(layers: nn.Module) -> list | None:
    """Which modules there are, with what, and where their tensors lie.

    None where a graph would leave something out: hooks, training, or tensors
    that stand for others.
    """
    if torch_module._has_any_global_hook():
        return None
    found, rest = [], [layers]
    while rest:
        module = rest.pop()
        if module is None:
            continue
        own = vars(module)
        if (
            own['training']
            or own['_forward_hooks']
            or own['_forward_pre_hooks']
            or '_is_replica' in own
        ):
            return None
        found.append(type(module))
        if module is not layers:
            # itself, as the id of one that is gone may be given to another
            found.append(module)
        for tensor in chain(
            own['_parameters'].values(), own['_buffers'].values()
        ):
            if type(tensor) in STORED:
                found += _place(tensor)
            elif tensor is not None:
                return None
        for value in [*own.values()][NUM_COMMON:]:
            found.append(value if type(value) in PLAIN else _kept(value))
        rest.extend(own['_modules'].values())
    return found


def _place(tensor: Tensor) -> tuple[Hashable, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _kept(value: Any) -> Hashable:
    """What tells a value of an attribute from others."""
    if type(value) in PLAIN:
        return value
    if type(value) in STORED:
        return _place(value)
    if isinstance(value, dict):
        return tuple((key, _kept(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_kept, value))
    return id(value)
