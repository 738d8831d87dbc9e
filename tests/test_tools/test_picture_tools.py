"""The tools that draw, on the sample data and random weights."""

import json
import re
import shutil

import pytest
from PIL import Image


def test_pictures_of_files_and_of_the_validation_set(
    run_tool, model_files, sample_root, tmp_path
) -> None:
    folder = sample_root / 'images' / 'validation'
    names = sorted(path.name for path in folder.glob('*.jpg'))
    # a name that looks like the markup of what is printed
    out_dir = tmp_path / 'files[' / ']'
    run_tool(
        *('visualize_scope.py', folder, *model_files),
        *('--num-images', 2, '--out-dir', out_dir),
    )
    written = {path.name for path in out_dir.iterdir()}
    assert written == {f'{n}.png' for n in names[:2]} | {'sheet.png'}
    run_tool(
        *('visualize_scope.py', 'val', *model_files),
        *('--num-images', 2, '--out-dir', tmp_path / 'val'),
    )
    assert (tmp_path / 'val' / 'stages.png').is_file()
    # the ground truth is one more panel
    narrow, wide = (
        Image.open(path / 'sheet.png').width
        for path in (out_dir, tmp_path / 'val')
    )
    assert wide > 1.1 * narrow


ELASTIC = """
model['backbone'].update(alpha=(0.2, 0.5, 1.0), eta=1.0, tau=1e9)
"""


def test_tau_decides_in_every_tool_that_draws(
    run_tool, save_weights, sample_root, tmp_path, capsys, monkeypatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        'mmscope.visualization.draw_scope', lambda *args: drawn.append(args)
    )
    files = save_weights(more=ELASTIC)
    folder = sample_root / 'images' / 'validation'
    for tau, share in ((None, 0), (-1, 1)):
        out_dir = tmp_path / f'{tau}'
        options = () if tau is None else ('--tau', tau)
        run_tool(
            *('image_demo.py', folder, *files, *options),
            *('--out-dir', out_dir),
        )
        records = json.loads((out_dir / 'exits.json').read_text())
        assert {one['share'] for one in records} == {share}
        assert {one['exited'] for one in records} == {share == 0}
        rows = re.findall(
            r'png +│ \w+ +│ [\d.]+ +│ ([\d.]+)', capsys.readouterr().out
        )
        assert [float(one) for one in rows] == [share] * len(records)
        for source in (folder, 'val'):
            run_tool(
                *('visualize_scope.py', source, *files, *options),
                *('--num-images', 1, '--out-dir', out_dir / 'scope'),
            )
            (picture,), eta, _ = drawn[-1]
            assert picture.tau == (1e9 if tau is None else tau)
            assert picture.refined_share(eta) == share


SLIDE = """
model.update(
    test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(48, 48))
)
test_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RepeatDataset', times=1, dataset=_base_.val_dataloader.dataset
    ),
)
test_dataloader['dataset']['dataset'].update(val_dataloader['dataset'])
"""


def test_windows_and_wrapped_datasets_are_drawn(
    run_tool, save_weights, sample_root, tmp_path
) -> None:
    """Each image has several windows, and the test set is wrapped."""
    files = save_weights(more=SLIDE)
    image = min((sample_root / 'images' / 'validation').glob('*.jpg'))
    run_tool(
        *('image_demo.py', image, *files, '--eta', 0.5),
        *('--out-dir', tmp_path / 'demo'),
    )
    (record,) = json.loads((tmp_path / 'demo/exits.json').read_text())
    assert isinstance(record['exited'], float)
    for source in (image, 'val'):
        run_tool(
            *('visualize_scope.py', source, *files, '--eta', 0.5),
            *('--num-images', 1, '--out-dir', tmp_path / 'scope'),
        )
        assert (tmp_path / 'scope' / 'sheet.png').stat().st_size > 9999
        (tmp_path / 'scope' / 'sheet.png').unlink()


def test_image_demo_draws_as_images_come(
    run_tool, model_files, sample_root, tmp_path
) -> None:
    """It keeps no image until the last one has been answered."""
    folder = tmp_path / 'in'
    shutil.copytree(sample_root / 'images' / 'validation', folder)
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[-1]).write_text('no image')
    with pytest.raises(OSError, match=names[-1]):
        run_tool(
            *('image_demo.py', folder, *model_files, '--batch-size', 1),
            *('--out-dir', tmp_path / 'out'),
        )
    pictures = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert pictures == [f'{name}.png' for name in names[:-1]]


def test_image_demo_draws_and_decides(
    run_tool, model_files, sample_root, tmp_path, capsys
) -> None:
    """Names are equal in two folders, and look like markup."""
    image = next((sample_root / 'images' / 'validation').glob('*.jpg'))
    name = 'a[red].jpg'
    files = [tmp_path / 'in' / name, tmp_path / 'in' / 'deep' / name]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image.read_bytes())
    out_dir = tmp_path / 'out[' / ']'
    run_tool(
        *('image_demo.py', tmp_path / 'in', *model_files),
        *('--eta', 0, '--out-dir', out_dir),
    )
    records = json.loads((out_dir / 'exits.json').read_text())
    assert [r['image'] for r in records] == sorted(map(str, files))
    assert all(r['exited'] is True for r in records)
    pictures = [r['picture'] for r in records]
    assert set(pictures) == {f'{name}.png', f'deep_{name}.png'}
    for picture in pictures:
        assert Image.open(out_dir / picture).size == Image.open(image).size
    printed = capsys.readouterr().out
    assert f'{name}.png' in printed
    assert 'out[/]' in printed.replace('\n', '')
