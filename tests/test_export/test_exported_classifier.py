"""An exported classifier answers as the model does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('openvino')

from exported import TOLERANCE, export, make_classifier  # noqa: E402

from mmscope.export import OnnxScope  # noqa: E402
from mmscope.export.engines import ENGINES  # noqa: E402
from mmscope.export.quantise import quantise  # noqa: E402
from mmscope.export.runner import exits  # noqa: E402
from mmscope.functional import should_exit  # noqa: E402
from mmscope.models import exit_settings  # noqa: E402

SIZE = (64, 96)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(make_classifier(), tmp_path_factory.mktemp('cls'), SIZE)


@pytest.fixture
def pixels() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (7, *SIZE, 3), dtype=np.uint8))


def answers_of_torch(pixels: list[np.ndarray], eta: float) -> tuple:
    model = make_classifier()
    inputs = [torch.from_numpy(p.transpose(2, 0, 1).copy()) for p in pixels]
    data = model.data_preprocessor(dict(inputs=torch.stack(inputs)))
    with torch.no_grad(), exit_settings(model, eta=eta):
        result = model.backbone.scope(data['inputs'])
        return model(data['inputs']), result


def middle_eta(pixels: list[np.ndarray]) -> float:
    """A threshold that some of the images reach."""
    return answers_of_torch(pixels, 1.0)[1].confidence.median().item()


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('eta', [0.0, 'middle', 1.0])
def test_answers_are_those_of_torch(folder, pixels, eta, engine) -> None:
    eta = middle_eta(pixels) - 1e-5 if eta == 'middle' else eta
    wanted, result = answers_of_torch(pixels, eta)
    scope = OnnxScope(folder, eta, 3, threads=1, engine=engine)
    found = scope(scope.prepare(pixels))
    values = torch.from_numpy(np.stack([one.value for one in found]))
    torch.testing.assert_close(values, wanted, **TOLERANCE)
    assert [one.exited for one in found] == result.exited.tolist()
    assert [one.confidence for one in found] == pytest.approx(
        result.confidence.tolist(), abs=1e-5
    )
    if 0 < eta < 1:
        assert 0 < result.exited.sum() < len(pixels)


@pytest.mark.parametrize('engine', ENGINES)
def test_refined_images_of_several_requests_share_a_batch(
    folder, pixels, engine
) -> None:
    scope = OnnxScope(folder, 1.0, 4, threads=1, engine=engine)
    images = scope.prepare(pixels)
    assert scope.submit(images[:3]) == []
    assert scope.num_waiting == 3
    first = scope.submit(images[3:])
    assert [one.key for one in first] == [0, 1, 2, 3]
    assert scope.num_waiting == 3
    rest = scope.flush()
    assert [one.key for one in rest] == [4, 5, 6]
    assert scope.num_waiting == 0 and scope.flush() == []
    at_once = OnnxScope(folder, eta=1.0, batch_size=7, threads=1)(images)
    for one, other in zip(first + rest, at_once, strict=True):
        np.testing.assert_allclose(one.value, other.value, atol=1e-5)


def test_a_call_leaves_the_queue_of_others_alone(folder, pixels) -> None:
    scope = OnnxScope(folder, eta=1.0, batch_size=4, threads=1)
    images = scope.prepare(pixels)
    scope.submit(images[:2])
    assert [one.key for one in scope(images[2:5])] == [2, 3, 4]
    assert scope.num_waiting == 2
    assert [one.key for one in scope.flush()] == [0, 1]


@pytest.mark.parametrize('eta', [0.0, 0.3, 0.7, 1.0])
def test_exit_rule_is_that_of_the_models(eta: float) -> None:
    given = torch.tensor([0.0, 0.3, 0.7, 1.0, torch.nan, torch.inf])
    wanted = should_exit(given, eta)
    assert exits(given.numpy(), eta).tolist() == wanted.tolist()


def test_the_record_says_what_a_server_needs(folder: Path) -> None:
    record = json.loads((folder / 'export.json').read_text())
    assert record['task'] == 'classification'
    assert record['classes'] == [f'class {i}' for i in range(5)]
    assert record['image_size'] == [64, 96]
    assert record['mean'] == [123.0, 117.0, 104.0]
    assert record['bgr_to_rgb'] is True
    assert record['share'] == 0.5
    assert record['exit_score'] == 'SingleLabelExitHead'
    assert record['opset'] == 18


def test_int8_is_smaller_and_close(folder, pixels, tmp_path: Path) -> None:
    quantise(folder, tmp_path)
    for name in ('coarse.onnx', 'fine.onnx'):
        old, new = ((f / name).stat().st_size for f in (folder, tmp_path))
        assert new < old
    for eta in (0.0, 1.0):
        exact, rough = (
            OnnxScope(f, eta=eta, threads=1) for f in (folder, tmp_path)
        )
        images = exact.prepare(pixels)
        one, other = (
            np.stack([a.value for a in scope(images)])
            for scope in (exact, rough)
        )
        assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()
    with pytest.raises(ValueError, match='is the folder of the float'):
        quantise(folder, folder)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(eta=1.5), 'eta must be in'),
        (dict(batch_size=0), 'batch_size must be positive, got 0'),
    ],
)
def test_wrong_options_are_refused(folder, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        OnnxScope(folder, **change)


def test_images_of_another_size_are_refused(folder) -> None:
    image = np.zeros((32, 96, 3), np.uint8)
    with pytest.raises(ValueError, match=r'\(64, 96, 3\), got \(32, 96, 3\)'):
        OnnxScope(folder).prepare([image])


def test_a_folder_without_graphs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'tools/export\.py'):
        OnnxScope(tmp_path)


def test_an_unknown_engine_is_refused(folder) -> None:
    with pytest.raises(ValueError, match="openvino, got 'tensorrt'"):
        OnnxScope(folder, engine='tensorrt')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(tau=0.1), 'tau=0.1 refines as many cells'),
        (dict(alpha=0.0, eta=0.0), 'alpha=0 never refines'),
        (dict(scan_backend='reference'), "scan_backend='auto'"),
        (dict(cell_score=dict(type='mmscope.Random')), 'RandomCells is for'),
    ],
)
def test_models_without_such_graphs_are_refused(
    change, message, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export(make_classifier(**change), tmp_path, SIZE)
    assert not list(tmp_path.iterdir())


def test_a_model_in_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='call eval'):
        export(make_classifier().train(), tmp_path, SIZE)
