"""The tools that draw, on the sample data and random weights."""

import json

from PIL import Image


def test_pictures_of_files_and_of_the_validation_set(
    run_tool, model_files, sample_root, tmp_path
) -> None:
    folder = sample_root / 'images' / 'validation'
    names = sorted(path.name for path in folder.glob('*.jpg'))
    run_tool(
        *('visualize_scope.py', folder, *model_files),
        *('--num-images', 2, '--out-dir', tmp_path / 'files'),
    )
    written = {path.name for path in (tmp_path / 'files').iterdir()}
    assert written == {f'{n}.png' for n in names[:2]} | {'sheet.png'}
    run_tool(
        *('visualize_scope.py', 'val', *model_files),
        *('--num-images', 2, '--out-dir', tmp_path / 'val'),
    )
    assert (tmp_path / 'val' / 'stages.png').is_file()
    # the ground truth is one more panel
    narrow, wide = (
        Image.open(tmp_path / name / 'sheet.png').width
        for name in ('files', 'val')
    )
    assert wide > 1.1 * narrow


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
