"""Where the tests of Triton kernels run, imported before Triton is.

On a GPU, or in Triton's interpreter on the CPU. Whether it interprets is
fixed when a kernel is defined, for the whole process, so these tests only run
in one that was started for it: by test_triton_interpreter.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmscope.ops.triton_check import FOUND, interpreted

if not FOUND:
    pytest.skip('triton is not installed', allow_module_level=True)
if interpreted():
    DEVICE, MARKS = 'cpu', []
elif torch.cuda.is_available():
    DEVICE, MARKS = 'cuda', [pytest.mark.gpu]
else:
    pytest.skip(
        'no GPU; test_triton_interpreter.py runs these on the CPU',
        allow_module_level=True,
    )


def to_device(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def on_device(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same ones on every device."""
    return torch.randn(*shape).to(DEVICE, dtype)


def hurry_interpreter() -> None:
    """Have it replace triton.language once a launch, not once a call.

    Nine tenths of its time would go there.
    """
    from triton.runtime import interpreter

    replace = interpreter._patch_lang
    launch = interpreter.GridExecutor.__call__
    done = set()

    def call(self, *args, **kwargs):
        namespace = self.fn.__globals__
        if id(namespace) not in done:
            done.add(id(namespace))
            replace(self.fn)
        return self.rewrite()(*args, **kwargs)

    def start(self, *args, **kwargs):
        done.clear()
        return launch(self, *args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call
    interpreter.GridExecutor.__call__ = start


if interpreted():
    hurry_interpreter()
