"""Compile the Triton kernels for an H100, which needs no GPU.

Prints a JSON list with one entry for every kernel that a forward and backward
pass would launch: what the machine code needs and how tiles are laid out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from mmscope.ops.conv.triton import conv_backward_op, conv_op
from mmscope.ops.norm.triton import norm_backward_op, norm_op
from mmscope.ops.scan.inputs import Inputs, Options
from mmscope.ops.scan.triton.config import EVERY, Config
from mmscope.ops.scan.triton.launch import prepare, run_backward, run_forward

TOOLS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16, fp32=torch.float32)
compiled = []


class Driver:
    """As much of a GPU as compiling asks for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', 90, 32)


def tool(name: str, *arguments: str) -> str:
    command = [str(TOOLS / name), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout


def describe(name: str, kernel: object) -> dict:
    with NamedTemporaryFile(suffix='.cubin') as file:
        Path(file.name).write_bytes(kernel.asm['cubin'])
        usage = dict(
            re.findall(
                r'(REG|STACK):(\d+)',
                tool('cuobjdump', '-res-usage', file.name),
            )
        )
        code = tool('nvdisasm', '-c', file.name)
    return dict(
        kernel=name,
        registers=int(usage['REG']),
        stack=int(usage['STACK']),
        shared=kernel.metadata.shared,
        shuffles=len(re.findall(r'\bSHFL\b', code)),
        wide_loads=len(re.findall(r'\bLDG\.E\.128\b', code)),
        tiles=re.findall(
            r'sizePerThread = \[(\d+, \d+)\], threadsPerWarp = \[(\d+, \d+)\]',
            kernel.asm['ttgir'],
        ),
    )


def compile_instead(self, *args, grid, warmup, **settings):
    kernel = launch(self, *args, grid=grid, warmup=True, **settings)
    compiled.append(describe(self.fn.__name__, kernel))


def scan(
    dtype: torch.dtype,
    config: Config,
    lengths: tuple[int, int] = (2, 1025),
    dim: int = 384,
    states: int = 16,
    rank: int = 16,
    given: bool = True,
) -> None:
    """Both passes of Vim-Ti's scan, or of one like it.

    Args:
        rank: Columns before B and C in their rows; they start on 16 bytes
            if it and the states are multiples of 16.
        given: Whether there are D, z and delta_bias, and importance is asked
            for.
    """
    batch, length = lengths

    def make(*shape: int, dtype: torch.dtype = torch.float32):
        return torch.empty(*shape, dtype=dtype)

    u = make(2, batch, length, dim, dtype=dtype)
    row = make(2, batch, length, rank + 2 * states, dtype=dtype)
    _, B, C = row.split([rank, states, states], dim=-1)
    weights = [make(2, dim) if given else None for _ in range(2)]
    z = make(batch, length, 2 * dim, dtype=dtype)[..., dim:]
    inputs = prepare(
        Inputs(
            *(u, torch.empty_like(u), make(2, dim, states), B, C),
            *(weights[0], z if given else None, weights[1]),
        )
    )
    options = Options(given, (False, True), given, given)
    out, _, starts = run_forward(inputs, options, EVERY, True, config)
    backward = config._replace(unroll=2)
    run_backward(inputs, options, EVERY, starts, out, backward)


def others(dtype: torch.dtype) -> None:
    """Both passes of the convolution and of the norm, with Vim-Ti's sizes."""
    x = torch.empty(2, 1025, 768, dtype=dtype)[..., 384:]
    weight, bias = torch.empty(2, 384, 4), torch.empty(2, 384)
    conv_backward_op(conv_op(x, weight, bias), x, weight, bias)
    stream, update = torch.empty(2, 1025, 192), x[..., :192]
    for given in (update, None):
        norm_op(stream, given, torch.empty(192), 1e-5, dtype)
    grads = update, stream
    norm_backward_op(stream, torch.empty(2, 1025), torch.empty(192), *grads)


CASES = {
    'chunked': dict(config=Config(32, 64, 4, 1)),
    'unsplit': dict(config=Config(32, 2048, 4, 1)),
    'wide': dict(config=Config(64, 2048, 4, 1)),
    'warps': dict(config=Config(64, 64, 4, 2)),
    'unaligned': dict(config=Config(32, 64, 4, 1), rank=12),
    'bare': dict(config=Config(32, 64, 4, 1), given=False),
    'odd': dict(config=Config(32, 64, 4, 1), dim=50, states=5, rank=3),
    'one': dict(config=Config(32, 64, 4, 1), lengths=(1, 1), dim=1, states=1),
    'states': dict(config=Config(32, 64, 4, 4), states=64),
}
launch = JITFunction.run
if __name__ == '__main__':
    driver.set_active(Driver())
    JITFunction.run = compile_instead
    name, dtype = sys.argv[1:]
    if name == 'others':
        others(DTYPES[dtype])
    else:
        scan(DTYPES[dtype], **CASES[name])
    print(json.dumps(compiled))
