"""Compile the Triton kernels for a GPU, which needs none.

Prints a JSON list with one entry for every kernel that a case would launch:
what the machine code needs, how tiles are laid out, and its longest loop.
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
from mmscope.ops.scan.triton.config import (
    EVERY,
    INFERENCE,
    Config,
    static_config,
)
from mmscope.ops.scan.triton.launch import prepare, run_backward, run_forward

TOOLS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16, fp32=torch.float32)
compiled = []


class Driver:
    """As much of a GPU as compiling asks for."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', self.architecture, 32)


def tool(name: str, *arguments: str) -> str:
    command = [str(TOOLS / name), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout


def instructions(code: str) -> tuple[list[str], dict[str, int]]:
    """Instructions without their guards, and where the labels are."""
    lines, labels = [], {}
    for line in code.splitlines():
        if match := re.match(r'\s*(\.L_x_\d+):', line):
            labels[match[1]] = len(lines)
        elif match := re.match(r'\s*/\*[0-9a-f]{4,}\*/\s+(.*?);', line):
            lines.append(re.sub(r'^@!?U?P\w+\s+', '', match[1]))
    return lines, labels


def longest_loop(code: str) -> list[str]:
    """Of those without another in them."""
    lines, labels = instructions(code)
    loops = []
    for last, line in enumerate(lines):
        match = re.search(r'^BRA.*`\((\.L_x_\d+)\)', line)
        first = labels.get(match[1], last) if match else last
        if first < last:
            loops.append((first, last))
    inner = [
        lines[first : last + 1]
        for first, last in loops
        if not any(
            (first, last) != (a, b) and first <= a and b <= last
            for a, b in loops
        )
    ]
    return max(inner, key=len, default=[])


def first_use(loop: list[str]) -> int:
    """How far the nearest reader of a wide load is from it, in a loop."""
    distances = []
    for at, line in enumerate(loop):
        match = re.match(r'LDG\.E\.(64|128) R(\d+)', line)
        if not match:
            continue
        name = re.compile(rf'\bR{match[2]}\b')
        after = loop[at + 1 :] + loop[:at]
        distances.append(
            next((n for n, x in enumerate(after) if name.search(x)), 0)
        )
    return min(distances, default=0)


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
    loop = longest_loop(code)
    count = {
        key: sum(line.startswith(start) for line in loop)
        for key, start in (
            ('exponents', 'MUFU.EX2'),
            ('shuffles', 'SHFL'),
            ('narrow_loads', 'LDG.E.U16'),
            ('loads', 'LDG'),
        )
    }
    return dict(
        kernel=name,
        hash=kernel.hash,
        registers=int(usage['REG']),
        stack=int(usage['STACK']),
        shared=kernel.metadata.shared,
        instructions=len(instructions(code)[0]),
        shuffles=len(re.findall(r'\bSHFL\b', code)),
        loop=dict(instructions=len(loop), lead=first_use(loop), **count),
        tiles=re.findall(
            r'sizePerThread = \[(\d+, \d+)\], threadsPerWarp = \[(\d+, \d+)\]',
            kernel.asm['ttgir'],
        ),
    )


def compile_instead(self, *args, grid, warmup, **settings):
    kernel = launch(self, *args, grid=grid, warmup=True, **settings)
    compiled.append(describe(self.fn.__name__, kernel))


def scan_inputs(
    dtype: torch.dtype, sizes: tuple[int, ...], rank: int, given: bool
) -> Inputs:
    """A scan's, as the mixer has them: B, C and the gate parts of rows."""
    batch, length, dim, states = sizes

    def make(*shape: int, dtype: torch.dtype = torch.float32):
        return torch.empty(*shape, dtype=dtype)

    u = make(2, batch, length, dim, dtype=dtype)
    row = make(2, batch, length, rank + 2 * states, dtype=dtype)
    _, B, C = row.split([rank, states, states], dim=-1)
    weights = [make(2, dim) if given else None for _ in range(2)]
    z = make(batch, length, 2 * dim, dtype=dtype)[..., dim:]
    return prepare(
        Inputs(
            *(u, torch.empty_like(u), make(2, dim, states), B, C),
            *(weights[0], z if given else None, weights[1]),
        )
    )


def scan(
    dtype: torch.dtype,
    config: Config | None = None,
    sizes: tuple[int, ...] = (64, 1025, 384, 16),
    rank: int = 12,
    given: bool = True,
    importance: bool = False,
    merge: bool = True,
    train: bool = False,
) -> None:
    """Vim-Ti's scan, or one like it.

    Args:
        config: Of the forward pass; default what would be chosen.
        sizes: B, L, Dim, S.
        rank: Columns before B and C in their rows.
        given: Whether there are D, z and delta_bias.
        train: Whether states are kept and the backward pass is compiled.
    """
    inputs = scan_inputs(dtype, sizes, rank, given)
    options = Options(given, (False, True), merge, importance)
    config = config or static_config(inputs.u, sizes[-1], False, train)
    out, _, starts = run_forward(inputs, options, EVERY, train, config)
    if train:
        backward = static_config(inputs.u, sizes[-1], True)
        backward = backward._replace(chunks=config.chunks)
        run_backward(inputs, options, EVERY, starts, out, backward)


def sizes_of_requests(dtype: torch.dtype) -> None:
    """What early exits make of a batch: one kernel must serve all."""
    for batch, length in ((1, 17), (2, 64), (16, 1025), (64, 257)):
        scan(dtype, Config(32, 1, 2, 1, 168), (batch, length, 384, 16))


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
    f'{name}-{rank}': dict(rank=rank, sizes=(64, 1025, 32 * rank, 16), **more)
    for rank in (12, 24, 48)
    for name, more in (
        ('inference', dict()),
        ('importance', dict(importance=True)),
        ('gated', dict(merge=False)),
        ('training', dict(train=True)),
    )
}
CASES |= {
    f'read-{steps}-ahead': dict(config=Config(32, 1, steps, 1, registers))
    for steps, registers in INFERENCE.items()
}
CASES |= {
    'chunked': dict(
        config=Config(32, 17, 2, 1, 255), sizes=(1, 1025, 384, 16), train=True
    ),
    'bare': dict(given=False, train=True),
    'odd': dict(sizes=(2, 1025, 50, 5), rank=3, train=True),
    'one': dict(sizes=(1, 1, 1, 1), train=True),
    'states': dict(sizes=(2, 1025, 384, 64), train=True),
}
launch = JITFunction.run
if __name__ == '__main__':
    name, dtype, architecture = sys.argv[1:]
    driver.set_active(Driver(int(architecture)))
    JITFunction.run = compile_instead
    if name in ('others', 'sizes_of_requests'):
        globals()[name](DTYPES[dtype])
    else:
        scan(DTYPES[dtype], **CASES[name])
    print(json.dumps(compiled))
