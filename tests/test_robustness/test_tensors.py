"""Shapes, dtypes and values of tensors that nobody meant to give."""

import torch
from hostile import tried
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict

from mmscope.engine.options import set_eta, set_tau
from mmscope.functional.checks import check_share
from mmscope.functional.targets import classes_in_instances, classes_in_mask
from mmscope.models.scope_options import check_alpha, check_tau
from mmscope.ops import selective_scan

DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
NUMBERS = (
    st.floats()
    | st.integers(-(10**9), 10**9)
    | st.booleans()
    | st.none()
    | st.text(max_size=4)
)
SIZES = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw: st.DrawFn, sizes: tuple[int, ...] = ()) -> torch.Tensor:
    """A tensor, mostly of the sizes given, at times of any."""
    shape = sizes if sizes and draw(st.integers(0, 5)) else draw(SIZES)
    dtype = draw(st.sampled_from(DTYPES))
    value = draw(st.sampled_from([0, 1, 3, 200, -1]))
    tensor = torch.full(tuple(shape), value).to(dtype)
    if dtype.is_floating_point and tensor.numel() and draw(st.booleans()):
        odd = draw(st.sampled_from([float('nan'), float('inf'), 1e38]))
        tensor.view(-1)[0] = odd
    return tensor


@given(tensors((2, 4, 4)), st.integers(-2, 300), st.integers(-5, 300))
def test_masks(mask: torch.Tensor, classes: int, ignored: int) -> None:
    with tried('masks as targets'):
        found = classes_in_mask(mask, classes, ignored)
        assert set(found.unique().tolist()) <= {0.0, 1.0}


@given(st.lists(tensors((3,)), max_size=3), st.integers(-2, 300))
def test_instances(labels: list[torch.Tensor], classes: int) -> None:
    with tried('labels of objects as targets'):
        assert len(classes_in_instances(labels, classes)) == len(labels)


@given(
    st.tuples(
        tensors((2, 3, 4)),
        tensors((2, 3, 4)),
        tensors((3, 2)),
        tensors((2, 2, 4)),
        tensors((2, 2, 4)),
        st.none() | tensors((3,)),
    )
)
def test_scan(given_tensors: tuple[torch.Tensor | None, ...]) -> None:
    with tried('arguments of the scan'):
        found = selective_scan(*given_tensors, delta_softplus=True)
        assert found.shape == given_tensors[0].shape


@given(NUMBERS | st.lists(NUMBERS, max_size=3) | tensors((1,)))
def test_shares_and_thresholds(value: object) -> None:
    for name, check in (
        ('alpha', check_alpha),
        ('tau', check_tau),
        ('eta', lambda one: check_share('eta', one)),
    ):
        with tried(f'values of {name}'):
            check(value)


@given(st.floats())
def test_options_of_tools(value: float) -> None:
    for name, change in (('--eta', set_eta), ('--tau', set_tau)):
        backbone = ConfigDict(type='mmscope.MambaScopeBackbone')
        cfg = Config(dict(model=dict(backbone=backbone)))
        with tried(f'{name} of tools'):
            change(cfg, value)
