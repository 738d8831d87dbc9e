"""An exported segmentor answers as the model does."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('openvino')

import onnxruntime  # noqa: E402
from exported import (  # noqa: E402
    TOLERANCE,
    export,
    make_segmentor,
    torch_labels,
)

from mmscope.export import OnnxScope  # noqa: E402
from mmscope.export.engines import ENGINES  # noqa: E402
from mmscope.export.graphs import CoarseGraph, FineGraph  # noqa: E402
from mmscope.ops import use_backend  # noqa: E402

# each exports graphs of its own
pytestmark = pytest.mark.slow

# by what its head says, decoded apart; and by pixels, with padding
OPTIONS = {
    'head': (dict(), (64, 96)),
    'pixels': (
        dict(
            exit_policy=dict(type='mmscope.PixelConfidence'),
            cell_score=dict(type='mmscope.CoarseUncertainty'),
            unselected='drop',
            alpha=0.4,
        ),
        (60, 90),
    ),
}


@pytest.fixture(scope='module', params=sorted(OPTIONS))
def exported(request, tmp_path_factory) -> tuple:
    options, size = OPTIONS[request.param]
    model = make_segmentor(**options)
    folder = export(model, tmp_path_factory.mktemp(request.param), size)
    return model, folder, size


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('eta', [0.0, 'middle', 1.0])
def test_labels_are_those_of_torch(exported, eta, engine) -> None:
    model, folder, size = exported
    images = torch.randn(5, 3, *size)
    _, samples = torch_labels(model, images, 1.0)
    if eta == 'middle':
        eta = sorted(one.exit_confidence for one in samples)[2] - 1e-5
    wanted, samples = torch_labels(model, images, eta)
    scope = OnnxScope(folder, eta, 2, threads=1, engine=engine)
    found = scope(images.numpy())
    labels = torch.from_numpy(np.stack([one.value for one in found]))
    # two classes may be equally likely but for rounding
    assert (labels == wanted).float().mean() > 0.999
    assert [one.exited for one in found] == [one.exited for one in samples]
    assert [one.confidence for one in found] == pytest.approx(
        [one.exit_confidence for one in samples], abs=1e-5
    )


def test_every_output_is_that_of_the_module(exported) -> None:
    model, folder, size = exported
    images = torch.randn(3, 3, *size)
    sessions = {
        name: onnxruntime.InferenceSession(
            str(folder / f'{name}.onnx'), providers=['CPUExecutionProvider']
        )
        for name in ('coarse', 'fine')
    }
    state = ('tokens', 'features', 'cls', 'map0', 'map1', 'map2', 'map3')
    graph = CoarseGraph(model, size, state)
    with torch.no_grad(), use_backend('torch'):
        values = graph(images)
        outputs = dict(zip(graph.outputs, values, strict=True))
        share = model.backbone.exit_settings.shares[-1]
        fine = FineGraph(model, size, state, share)
        given = dict(image=images, scores=outputs['scores'])
        given |= {name: outputs[name] for name in state}
        refined = dict(zip(fine.outputs, fine(*given.values()), strict=True))
    read = {one.name for one in sessions['fine'].get_inputs()}
    feed = {n: value.numpy() for n, value in given.items() if n in read}
    handed = {one.name for one in sessions['coarse'].get_outputs()}
    outputs = {n: value for n, value in outputs.items() if n in handed}
    for name, inputs, wanted in (
        ('coarse', dict(image=images.numpy()), outputs),
        ('fine', feed, refined),
    ):
        names = [n for n in wanted if n != 'labels']
        found = sessions[name].run(names, inputs)
        for key, value in zip(names, found, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(value), wanted[key], **TOLERANCE
            )


def test_only_undecoded_answers_have_a_graph(exported) -> None:
    model, folder, _ = exported
    decodes = model.backbone.exit_settings.decodes
    assert Path(folder / 'decode.onnx').exists() is not decodes
