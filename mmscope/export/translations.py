"""How ONNX writes what torch exports as one operator, or too slowly."""

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
import torch.nn.functional as F
from onnxscript import evaluator
from onnxscript import opset18 as op


def _body(A: ir.Value) -> ir.Graph:
    """One token of the scan: six nodes, whose tensors stay in the cache.

    Args:
        A: State matrix of the graph around, (G, S, Dim).
    """
    names = ('state', 'dt', 'driven', 'B', 'C')
    # the name of A tells the layers apart
    state, dt, driven, b, c = (
        ir.Value(
            name=f'{A.name}_{name}', type=ir.TensorType(ir.DataType.FLOAT)
        )
        for name in names
    )
    nodes: list[ir.Node] = []

    def add(operator: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(operator, inputs)
        node.outputs[0].name = f'{A.name}_{operator}{len(nodes)}'
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        nodes.append(node)
        return node.outputs[0]

    decay = add('Exp', add('Mul', dt, A))
    new = add('Add', add('Mul', decay, state), add('Mul', driven, b))
    y = add('MatMul', c, new)
    return ir.Graph(
        [state, dt, driven, b, c],
        [new, y],
        nodes=nodes,
        name=f'{A.name}_token',
    )


def _scan(
    start: ir.Value, tokens: Sequence[ir.Value], body: ir.Graph
) -> ir.Value:
    """Record ONNX's Scan, whose number of outputs ``op`` cannot know."""
    node = ir.node(
        'Scan',
        [start, *tokens],
        attributes=dict(num_scan_inputs=len(tokens), body=body),
        num_outputs=2,
    )
    _, y = node.outputs
    y.type = ir.TensorType(ir.DataType.FLOAT)
    # what records the calls of ``op``
    evaluator.default().nodes.append(node)
    return y


def _flip(x: ir.Value, reverse: Sequence[int]) -> ir.Value:
    """Turn the tokens of the directions that scan from the last one.

    Args:
        x: (G, B, L, F).
        reverse: Whether a direction does, for each of G.
    """
    if not any(reverse):
        return x
    last, far = _axes(-1), _axes(-(2**31))
    turned = []
    for number, backward in enumerate(reverse):
        part = op.Slice(x, _axes(number), _axes(number + 1), _axes(0))
        if backward:
            part = op.Slice(part, last, far, _axes(2), last)
        turned.append(part)
    return op.Concat(*turned, axis=0)


def _axes(*axes: int) -> ir.Value:
    return op.Constant(value_ints=list(axes))


def scan_forward(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=True,
    reverse=(),
    merge=True,
    importance=False,
    chunk=0,
    save=False,
):
    """The scan operator of ``mmscope.ops``, as ONNX's Scan over tokens.

    All directions take a step together, those from the last token turned.
    There are no annotations: onnxscript reads them as types of ONNX.
    Arguments and outputs are the operator's.
    """
    skip, bias = (
        None if x is None else op.Unsqueeze(x, _axes(1, 2))
        for x in (D, delta_bias)
    )
    dt = delta if bias is None else op.Add(delta, bias)
    if delta_softplus:
        dt = op.Softplus(dt)

    def lead(x: ir.Value, axis: int) -> ir.Value:
        x = op.Transpose(_flip(x, reverse), perm=[2, 1, 0, 3])
        return op.Unsqueeze(x, _axes(axis))

    A = op.Transpose(A, perm=[0, 2, 1])
    # (B, G, S, Dim) of zeros
    batch = op.Slice(op.Shape(u), _axes(1), _axes(2), _axes(0))
    shape = op.Concat(batch, op.Shape(A), axis=0)
    start = op.Expand(op.Constant(value_float=0.0), shape)
    tokens = lead(dt, -2), lead(op.Mul(dt, u), -2), lead(B, -1), lead(C, -2)
    y = _scan(start, tokens, _body(A))
    y = op.Transpose(op.Squeeze(y, _axes(-2)), perm=[2, 1, 0, 3])
    y = _flip(y, reverse)
    if skip is not None:
        y = op.Add(y, op.Mul(u, skip))
    out, score = y, op.Constant(value_floats=[0.0])
    if importance:
        score = op.Softplus(op.ReduceMax(y, _axes(0, 3), keepdims=0))
    if merge:
        out = op.ReduceMean(y, _axes(0), keepdims=0)
    if z is not None:
        out = op.Mul(out, op.Mul(z, op.Sigmoid(z)))
    return out, score, op.Constant(value_floats=[0.0])


def softplus(x, beta=1.0, threshold=20.0):
    """ONNX's own, which needs no threshold and so no slow ``Where``."""
    return op.Softplus(x)


def stable_sort(x, stable=True, dim=-1, descending=False):
    """TopK of all: ONNX says that of equals the first comes first."""
    number = op.Constant(value_ints=[x.shape[dim]])
    return op.TopK(x, number, axis=dim, largest=descending, sorted=1)


def resample(x, output_size, align_corners=False, *scales):
    """Bicubic resampling as two products: runtimes have rules of their own.

    It is linear in rows and in columns: torch says what it makes of each.
    """
    rows, columns = (
        F.interpolate(
            torch.eye(side)[None, None],
            size=(number, side),
            mode='bicubic',
            align_corners=align_corners,
        )[0, 0]
        for side, number in zip(x.shape[2:], output_size, strict=True)
    )
    rows, columns = (
        op.Constant(value=ir.tensor(one.contiguous().numpy()))
        for one in (rows, columns.mT)
    )
    return op.MatMul(op.MatMul(rows, x), columns)


def translations() -> dict[Callable, Callable]:
    """What to translate by hand: operators of torch, and of the scan."""
    from mmscope.ops.scan import torch as _registered  # noqa: F401

    return {
        torch.ops.mmscope.torch_scan_forward.default: scan_forward,
        torch.ops.aten.softplus.default: softplus,
        torch.ops.aten.sort.stable: stable_sort,
        torch.ops.aten.upsample_bicubic2d.vec: resample,
    }
