"""Writes the graphs of a model as ONNX files."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.export import Dim

from mmscope.models.cell_scores import OracleCells, RandomCells
from mmscope.models.early_exit import EarlyExitMixin
from mmscope.models.exit_policies import ForcedExit, OracleExit, RandomExit
from mmscope.models.mambascope import MambaScopeBackbone
from mmscope.ops import use_backend
from mmscope.version import __version__

from .graphs import (
    CoarseGraph,
    DecodeGraph,
    FineGraph,
    ScopeGraph,
    Size,
    state_of,
)
from .optional import require_packages
from .record import ExportRecord

# they look at files, at the ground truth, or at nothing
NOT_SERVED = (ForcedExit, OracleExit, RandomExit, OracleCells, RandomCells)


def export_onnx(
    model: EarlyExitMixin,
    folder: str | Path,
    size: Size,
    classes: Sequence[str] = (),
) -> ExportRecord:
    """Write coarse.onnx, fine.onnx and what a server must know of them.

    A segmentor that does not decode before it decides gets decode.onnx, too,
    for the images that exit. Batches may have any size, images but one.

    Args:
        model: A :class:`MambaScopeSegmentor` or :class:`MambaScopeClassifier`
            on a CPU, in evaluation mode, which refines one share of cells.
        folder: Folder to write to.
        size: Height and width of the images.
        classes: Names of the classes.

    Returns:
        What was written to export.json.

    Raises:
        RuntimeError: onnx or onnxscript are not installed.
        ValueError: the model cannot be exported as it is.
    """
    require_packages('export', 'onnx', 'onnxscript')
    check_exportable(model)
    folder, backbone = Path(folder), model.backbone
    folder.mkdir(parents=True, exist_ok=True)
    settings = backbone.exit_settings
    images = torch.rand(2, 3, *size)
    with torch.no_grad(), use_backend('torch'):
        names, example = _coarse_state(model, size, images)
        state = [example[name] for name in names]
        decode_reads: list[str] = []
        if model.predicts_pixels and not settings.decodes:
            decode_reads = [name for name in names if name[:3] == 'map']
            maps = [example[name] for name in decode_reads]
            _write(
                DecodeGraph(model, size, ()),
                dict(zip(decode_reads, maps, strict=True)),
                folder / 'decode.onnx',
            )
        share = settings.shares[-1]
        fine_reads = _write(
            FineGraph(model, size, names, share),
            dict(
                image=images,
                scores=example['scores'],
                **dict(zip(names, state, strict=True)),
            ),
            folder / 'fine.onnx',
        )
        fine_reads.remove('image')
        read = {*fine_reads, *decode_reads}
        _write(
            CoarseGraph(model, size, tuple(n for n in names if n in read)),
            dict(image=images),
            folder / 'coarse.onnx',
        )
    preprocessor = model.data_preprocessor
    judge = settings.policy or backbone.exit_head
    record = ExportRecord(
        task='segmentation' if model.predicts_pixels else 'classification',
        classes=list(classes),
        image_size=list(size),
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        # mmengine's name, by no public one, and mmpretrain's
        bgr_to_rgb=bool(
            getattr(preprocessor, '_channel_conversion', False)
            or getattr(preprocessor, 'to_rgb', False)
        ),
        eta=float(settings.eta),
        exit_score=type(judge).__name__,
        share=float(share),
        fine_reads=fine_reads,
        decode_reads=decode_reads,
        opset=_opset(),
        mmscope=__version__,
    )
    record.save(folder)
    return record


def check_exportable(model: nn.Module) -> None:
    """Refuse what has no such graphs.

    Raises:
        ValueError: it is no such model, trains, refines as much as an image
            needs, or decides by what no server knows.
    """
    name = type(model).__name__
    net = getattr(model, 'backbone', None)
    if not isinstance(net, MambaScopeBackbone) or not (
        isinstance(model, EarlyExitMixin)
        and (model.predicts_pixels or model.reads == 'cls_token')
    ):
        raise ValueError(
            'only a MambaScopeSegmentor or MambaScopeClassifier is exported, '
            f'got {name}'
        )
    if model.training:
        raise ValueError(f'{name} is in training mode; call eval() first')
    settings = net.exit_settings
    if settings.tau is not None:
        raise ValueError(
            f'tau={settings.tau} refines as many cells as an image needs, and '
            'the fine graph has a fixed share: build the model with tau=None'
        )
    if not settings.shares[-1] > 0:
        raise ValueError('alpha=0 never refines: there is no fine graph')
    for part in (settings.policy, settings.cell_score):
        if isinstance(part, NOT_SERVED):
            raise ValueError(
                f'{type(part).__name__} is for experiments and cannot be '
                'served; choose another exit_policy or cell_score'
            )
    backends = {layer.mixer.backend for layer in net.layers}
    if backends - {None, 'torch'}:
        raise ValueError(
            f'scan backends {sorted(map(str, backends))} cannot be exported: '
            "build the model with scan_backend='auto'"
        )


def _coarse_state(
    model: nn.Module, size: Size, images: Tensor
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Names of a coarse stage's parts, and an example of them and scores."""
    graph = CoarseGraph(model, size, ())
    padded, content = graph.pad(images)
    with model.in_context(content=content), model.deciding(padded):
        result = model.backbone.coarse(padded, eta=1.0)
    state = state_of(result.coarse)
    return tuple(state), dict(state, scores=result.refinement.scores)


def _write(
    graph: ScopeGraph, inputs: dict[str, Tensor], path: Path
) -> list[str]:
    """Export a graph, without the inputs that it does not read.

    Args:
        graph: What to export.
        inputs: Its inputs in order, with names.
        path: File to write.

    Returns:
        Names of the inputs that it reads.
    """
    from .translations import OPSET, translations

    graph.eval()
    graph(*inputs.values())  # names its outputs
    batch = {0: Dim('batch', min=1, max=2**20)}
    shapes = tuple(batch for _ in inputs)
    if isinstance(graph, FineGraph):
        shapes = (batch, batch, shapes[2:])
    elif isinstance(graph, DecodeGraph):
        shapes = (shapes,)
    program = torch.onnx.export(
        graph,
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=shapes,
        opset_version=OPSET,
        custom_translation_table=translations(),
        verbose=False,
    )
    model = program.model
    for value in list(model.graph.inputs):
        if not value.uses():
            model.graph.inputs.remove(value)
        elif isinstance(value.shape[0], int):
            raise RuntimeError(
                f'{path.name} would take batches of {value.shape[0]} alone: '
                f'something in {type(graph.model).__name__} fixes it'
            )
    program.save(str(path))
    print_log(
        f'{path}: {sum(1 for _ in model.graph)} nodes',
        'current',
        logging.INFO,
    )
    return [value.name for value in model.graph.inputs]


def _opset() -> int:
    from .translations import OPSET

    return OPSET
