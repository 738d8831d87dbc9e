"""Writes the graphs of a model as ONNX files."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.export import Dim

from mmscope.models.early_exit import EarlyExitMixin
from mmscope.ops import use_backend
from mmscope.utils.structures import swaps_channels
from mmscope.version import __version__

from .checks import check_exportable
from .graphs import (
    CoarseGraph,
    DecodeGraph,
    FineGraph,
    ScopeGraph,
    Size,
    state_of,
)
from .optional import require_packages
from .record import OPSET, ExportRecord


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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), use_backend('torch'):
        decode_reads, fine_reads = _write_graphs(model, folder, size)
    preprocessor = model.data_preprocessor
    settings = model.backbone.exit_settings
    judge = settings.policy or model.backbone.exit_head
    record = ExportRecord(
        task='segmentation' if model.predicts_pixels else 'classification',
        classes=list(classes),
        image_size=list(size),
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        bgr_to_rgb=swaps_channels(preprocessor),
        eta=float(settings.eta),
        exit_score=type(judge).__name__,
        share=float(settings.shares[-1]),
        fine_reads=fine_reads,
        decode_reads=decode_reads,
        opset=OPSET,
        mmscope=__version__,
    )
    record.save(folder)
    return record


def _write_graphs(
    model: EarlyExitMixin, folder: Path, size: Size
) -> tuple[list[str], list[str]]:
    """Write all graphs of a model, those first that say what they read.

    Args:
        model: The model.
        folder: Folder to write to.
        size: Height and width of the images.

    Returns:
        Outputs of the coarse graph that the graphs of exited and of refined
        images read.
    """
    images = torch.rand(2, 3, *size)
    state, scores = _coarse_state(model, size, images)
    settings = model.backbone.exit_settings
    maps = {}
    if model.predicts_pixels and not settings.decodes:
        maps = {name: x for name, x in state.items() if name[:3] == 'map'}
        _write(DecodeGraph(model, size, ()), maps, folder / 'decode.onnx')
    fine = FineGraph(model, size, tuple(state), settings.shares[-1])
    inputs = dict(image=images, scores=scores, **state)
    fine_reads = _write(fine, inputs, folder / 'fine.onnx')
    fine_reads.remove('image')
    read = tuple(name for name in state if name in {*fine_reads, *maps})
    coarse = CoarseGraph(model, size, read)
    _write(coarse, dict(image=images), folder / 'coarse.onnx')
    return list(maps), fine_reads


def _coarse_state(
    model: nn.Module, size: Size, images: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """An example of what a coarse stage hands on, and its cells' scores."""
    padded, content = ScopeGraph(model, size, ()).pad(images)
    with model.in_context(content=content), model.deciding(padded):
        result = model.backbone.coarse(padded, eta=1.0)
    return state_of(result.coarse), result.refinement.scores


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
    from .translations import translations

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
