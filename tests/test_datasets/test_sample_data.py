"""The sample data's contents, and how carefully it is written."""

import json
import os
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmscope.datasets import draw_contact_sheet, write_sample_data
from mmscope.datasets.sample import data as sample_data
from mmscope.datasets.sample import layouts as sample_layouts
from mmscope.datasets.sample.scenes import make_scene

ROOT = Path(__file__).parents[2]
SMALL = dict(num_train=12, num_val=6, size=(96, 144))
TINY = dict(num_train=2, num_val=1, size=(64, 80))


def read_tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_the_same_arguments_give_the_same_bytes(
    sample_root: Path, tmp_path: Path
) -> None:
    write_sample_data(tmp_path / 'again', **SMALL)
    assert read_tree(tmp_path / 'again') == read_tree(sample_root)


def test_another_seed_gives_other_pictures() -> None:
    one, other = (make_scene('training', 0, (64, 80), s) for s in (0, 1))
    assert (
        one.image.shape != other.image.shape
        or (one.image != other.image).any()
    )


def test_a_larger_set_begins_with_the_smaller_one(
    sample_root: Path, tmp_path: Path
) -> None:
    write_sample_data(tmp_path / 'more', **{**SMALL, 'num_train': 14})
    more, less = read_tree(tmp_path / 'more'), read_tree(sample_root)
    pictures = [name for name in less if name.endswith(('.jpg', '.png'))]
    assert {n: more[n] for n in pictures} == {n: less[n] for n in pictures}


def test_sides_vary_within_the_range() -> None:
    scenes = [make_scene('training', i, (65, 130), 0) for i in range(30)]
    shapes = {scene.image.shape[:2] for scene in scenes}
    sides = {side for shape in shapes for side in shape}
    assert len(shapes) > 20
    assert 65 <= min(sides) < 80 and 115 < max(sides) <= 130
    assert any(side % 32 for side in sides)


def test_difficulty_means_more_and_smaller_objects() -> None:
    scenes = [make_scene('validation', i, (96, 144), 3) for i in range(40)]
    difficulty = [scene.difficulty for scene in scenes]
    counts = [len(scene.classes) for scene in scenes]
    areas = [(s.objects > 0).sum() / len(s.classes) for s in scenes]
    assert np.corrcoef(difficulty, counts)[0, 1] > 0.9
    assert np.corrcoef(difficulty, np.log(areas))[0, 1] < -0.9
    assert min(counts) == 1 and max(counts) > 12
    # evenly spread, so that an exit rate can have any value
    quarters = np.histogram(difficulty, bins=4, range=(0, 1))[0]
    assert quarters.min() >= 9


def test_easy_pictures_have_a_plain_ground() -> None:
    scenes = [make_scene('training', i, (96, 144), 0) for i in range(30)]
    scenes.sort(key=lambda scene: scene.difficulty)

    def roughness(scene) -> float:
        steps = np.abs(np.diff(scene.image.astype(float), axis=1)).mean(-1)
        ground = scene.mask() == 1
        return steps[ground[:, 1:] & ground[:, :-1]].mean()

    easy = np.mean([roughness(scene) for scene in scenes[:10]])
    hard = np.mean([roughness(scene) for scene in scenes[-10:]])
    assert hard > 3 * easy


def test_no_object_is_hidden() -> None:
    scenes = [make_scene('training', i, (64, 224), 5) for i in range(30)]
    for scene in scenes:
        sizes = np.bincount(
            scene.objects.ravel(), minlength=len(scene.classes) + 1
        )[1:]
        assert len(sizes) == len(scene.classes)
        assert sizes.min() >= 4


def test_the_summary_describes_every_picture(sample_root: Path) -> None:
    summary = write_sample_data(sample_root, **SMALL)
    meta = json.loads((sample_root / 'meta.json').read_text())
    assert summary == {'root': str(sample_root), 'written': False, **meta}
    assert meta['counts'] == {'training': 12, 'validation': 6}
    for split, pictures in meta['images'].items():
        files = (sample_root / 'images' / split).iterdir()
        assert set(pictures) == {path.name for path in files}
        for facts in pictures.values():
            assert 0 <= facts['difficulty'] <= 1
            assert facts['num_objects'] >= 1


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    first = write_sample_data(tmp_path, **TINY)
    (tmp_path / 'notes.txt').write_text('mine')
    time = (tmp_path / 'meta.json').stat().st_mtime_ns
    second = write_sample_data(tmp_path, **TINY)
    assert (first['written'], second['written']) == (True, False)
    assert (tmp_path / 'meta.json').stat().st_mtime_ns == time


@pytest.mark.parametrize('force', [False, True])
def test_a_foreign_folder_is_refused_and_kept(
    tmp_path: Path, force: bool
) -> None:
    (tmp_path / 'meta.json').write_text('{"generator": "another one"}')
    with pytest.raises(FileExistsError, match='holds no sample data .*empty'):
        write_sample_data(tmp_path, **TINY, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ['meta.json']


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'data').write_text('mine')
    with pytest.raises(FileExistsError, match='is a file: choose another'):
        write_sample_data(tmp_path / 'data', **TINY)


def test_another_set_is_replaced_only_by_force(tmp_path: Path) -> None:
    root = tmp_path / 'data'
    write_sample_data(root, **TINY)
    (root / 'images' / 'notes.txt').write_text('mine')
    before = read_tree(root)
    other = {**TINY, 'num_train': 1, 'seed': 1}
    with pytest.raises(FileExistsError, match="'seed': 0.*'seed': 1.*--force"):
        write_sample_data(root, **other)
    assert read_tree(root) == before

    assert write_sample_data(root, **other, force=True)['written']
    after = read_tree(root)
    assert after.pop('images/notes.txt') == b'mine'
    write_sample_data(tmp_path / 'fresh', **other)
    assert after == read_tree(tmp_path / 'fresh')
    assert sorted(os.listdir(tmp_path)) == ['data', 'fresh']


def test_force_spares_a_foreign_file_in_the_way(tmp_path: Path) -> None:
    write_sample_data(tmp_path, **TINY)
    mine = tmp_path / 'images' / 'training' / 'train_000003.jpg'
    mine.write_text('mine')
    before = read_tree(tmp_path)
    with pytest.raises(FileExistsError, match='train_000003.jpg .*move it'):
        write_sample_data(tmp_path, **{**TINY, 'num_train': 3}, force=True)
    assert read_tree(tmp_path) == before


def test_an_incomplete_set_is_noticed(tmp_path: Path) -> None:
    write_sample_data(tmp_path, **TINY)
    (tmp_path / 'val2017' / 'val_000001.jpg').unlink()
    with pytest.raises(FileExistsError, match='1 of its 12 .*val_000001.jpg'):
        write_sample_data(tmp_path, **TINY)
    write_sample_data(tmp_path, **TINY, force=True)
    assert not write_sample_data(tmp_path, **TINY)['written']


def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample_data(tmp_path / 'old', **TINY)
    before = read_tree(tmp_path)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_layouts, '_describe', interrupt)
    for name in ('new', 'old'):
        with pytest.raises(KeyboardInterrupt):
            write_sample_data(tmp_path / name, **TINY, force=True)
    assert os.listdir(tmp_path) == ['old']
    assert read_tree(tmp_path) == before


def test_a_failed_swap_restores_the_old_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / 'data'
    write_sample_data(root, **TINY)
    before = read_tree(root)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == 'new':
            raise PermissionError(self)
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', fail)
    with pytest.raises(PermissionError):
        write_sample_data(root, **TINY, force=True)
    assert read_tree(root) == before


def test_pictures_are_copied_where_links_cannot_be(
    sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError('no links here')

    monkeypatch.setattr(os, 'link', refuse)
    write_sample_data(tmp_path / 'copied', **SMALL)
    assert read_tree(tmp_path / 'copied') == read_tree(sample_root)


@pytest.mark.parametrize(
    'argument, message',
    [
        (dict(num_train=0), 'num_train must be .* from 1 .*, got 0'),
        (dict(num_val=2.0), 'num_val must be an integer.*, got 2.0'),
        (dict(seed=-1), 'seed must be an integer from 0 on, got -1'),
        (dict(size=(128, 96)), r'64 <= smallest <= .*, got \(128, 96\)'),
        (dict(size=(32, 96)), r'size must be .*, got \(32, 96\)'),
        (dict(size=(96, 9999)), r'largest <= 1024, got \(96, 9999\)'),
        (dict(size=128), r'size must be two integers, .*, got 128'),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, argument: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_sample_data(tmp_path / 'data', **{**TINY, **argument})
    assert not list(tmp_path.iterdir())


def test_missing_photographs_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'skimage.data', None)
    monkeypatch.setattr(
        'mmscope.datasets.sample.grounds._photo',
        sys.modules['mmscope.datasets.sample.grounds']._photo.__wrapped__,
    )
    with pytest.raises(RuntimeError, match='pip install scikit-image'):
        make_scene('training', 0, (64, 80), 0)


def test_the_contact_sheet_shows_pictures(
    sample_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'sheets' / 'sheet.png'
    assert draw_contact_sheet(sample_root, path, columns=4, rows=1) == path
    sheet = cv2.imread(str(path))
    height, width = sheet.shape[:2]
    assert 144 < height < 200 and width > 4 * 2 * 144
    # wherever a picture is, it is not paper
    for column in range(4):
        part = sheet[:, column * width // 4 : (column + 1) * width // 4]
        assert (part < 255).any(-1).mean() > 0.3


def test_a_contact_sheet_needs_sample_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='holds no sample data'):
        draw_contact_sheet(tmp_path, tmp_path / 'sheet.png')


def run_tool(*arguments: object) -> None:
    argv = [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['make_sample_data.py', *argv])
        tool = ROOT / 'tools' / 'make_sample_data.py'
        runpy.run_path(str(tool), run_name='__main__')


def test_the_tool_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, sheet = tmp_path / 'data', tmp_path / 'sheet.png'
    options = [root, '--num-train', 2, '--num-val', 1, '--size', 64, 80]
    run_tool(*options, '--contact-sheet', sheet)
    said = f'{root}: made (2 training, 1 validation pictures)'
    assert said in capsys.readouterr().out
    assert sheet.is_file()
    run_tool(*options)
    assert 'already there' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='error: .*--force'):
        run_tool(*options, '--seed', 1)
    run_tool(*options, '--seed', 1, '--force')
    assert sample_data.read_meta(root)['seed'] == 1
