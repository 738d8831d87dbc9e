"""Mixed precision, and what must not change the weights that are learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from single_run import single_run
from torch import Tensor, nn

from mmscope.engine.autocast import BFloat16OptimWrapper
from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.options import set_amp

SHORT = """
randomness = dict(seed=0)
train_cfg = dict(max_iters=4, val_interval=9)
default_hooks['checkpoint'] = dict(interval=9)
optim_wrapper['accumulative_counts'] = 2
"""
# recomputed and deterministic
SAVING = """
randomness = dict(seed=0, deterministic=True)
model['backbone']['with_cp'] = True
"""
CPU_ONLY = pytest.mark.skipif(
    torch.cuda.is_available(), reason='says what a CPU does'
)


@pytest.fixture
def learned(tmp_path: Path) -> Callable[..., nn.Module]:
    """Train as tools/train.py --amp does, and give the model."""

    def run(config: Path) -> nn.Module:
        with single_run():
            cfg = load_config(str(config), str(tmp_path / config.parent.name))
            set_amp(cfg)
            runner = build_runner(cfg, 'none', ('train', 'val'))
            kinds = set()
            runner.model.decode_head.conv_seg.register_forward_hook(
                lambda module, inputs, output: kinds.add(
                    (module.training, output.dtype)
                )
            )
            runner.train()
            # validation is in float32
            assert kinds == {(True, torch.bfloat16), (False, torch.float32)}
            return runner.model

    yield run
    torch.use_deterministic_algorithms(False)


@CPU_ONLY
def test_recomputing_and_determinism_change_no_weight(
    learned, tiny_config
) -> None:
    """In bfloat16 and with accumulated gradients as well."""
    plain = learned(tiny_config(SHORT)).state_dict()
    saving = learned(tiny_config(SHORT + SAVING)).state_dict()
    for name, weight in plain.items():
        assert weight.isfinite().all(), name
        assert weight.dtype in (torch.float32, torch.int64)
        assert torch.equal(weight, saving[name]), name


def step(net: nn.Module, batches: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Weights after one update by the mean over all batches."""
    wrapper = OptimWrapper(
        torch.optim.SGD(net.parameters(), lr=0.1),
        accumulative_counts=len(batches),
    )
    wrapper.initialize_count_status(net, 0, len(batches))
    for batch in batches:
        with wrapper.optim_context(net):
            loss = sum(part.square().mean() for part in net(batch))
        wrapper.update_params(loss)
    return net.state_dict()


def test_accumulated_gradients_are_those_of_the_whole_batch(
    make_vim,
) -> None:
    """Also where blocks are recomputed and algorithms deterministic."""
    plain, saving = make_vim(), make_vim(with_cp=True)
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    saving.load_state_dict(before)
    images = torch.rand(4, 3, 64, 96)
    expected = step(plain.train(), (images,))
    torch.use_deterministic_algorithms(True)
    try:
        found = step(saving.train(), images.split(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert any(not torch.equal(before[k], v) for k, v in found.items())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@CPU_ONLY
def test_a_cpu_refuses_float16(tiny_config) -> None:
    cfg = load_config(str(tiny_config("optim_wrapper['dtype'] = 'float16'")))
    with pytest.raises(ValueError, match='bfloat16 on a CPU.*is float16'):
        set_amp(cfg)


@CPU_ONLY
@pytest.mark.parametrize('dtype', ['', "optim_wrapper['dtype'] = 'bfloat16'"])
def test_a_cpu_trains_in_bfloat16(tiny_config, dtype) -> None:
    cfg = load_config(str(tiny_config(dtype)))
    set_amp(cfg)
    assert cfg.optim_wrapper.type == f'mmscope.{BFloat16OptimWrapper.__name__}'
    assert 'dtype' not in cfg.optim_wrapper
