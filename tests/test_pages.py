"""The code that pages show runs."""

from pathlib import Path

import pytest
from pages import blocks_of, run_page

DOCS = Path(__file__).parents[1] / 'docs'
PAGE = """
<!-- file: sub/lines.txt -->
```text
one
two
```

    indented text is no block

<!-- not run: it would stop everything -->
```shell
exit 3
```
```shell
wc -l < sub/lines.txt > count
false | cat || echo "$COLUMNS"
```
```python
print(int(open('count').read()) + 40)
```
<!-- fails: no such word -->
```python
raise SystemExit('no such word')
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / 'page.md'
    path.write_text(PAGE)
    return path


def test_blocks_are_run_in_order(page: Path, tmp_path: Path) -> None:
    markers = [block.marker for block in blocks_of(page)]
    assert markers == ['file', 'not run', 'run', 'run', 'fails']
    assert run_page(page, tmp_path) == ['400\n', '42\n', 'no such word\n']
    printed = run_page(page, tmp_path, {'+ 40': '+ 1', 'two': '2\n3'})
    assert printed[1] == '4\n'


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('int(open', 'int(oben', 'oben'),
        ("SystemExit('no such word')", "SystemExit('another')", 'another'),
        ("raise SystemExit('no such word')", 'print(1)', 'ended with 0'),
        ('false | cat ||', 'false | cat;', 'false'),
        ('nowhere', 'else', 'page.md has no ..nowhere'),
    ],
)
def test_a_page_that_does_not_run_fails(
    page: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        run_page(page, tmp_path, {old: new})


@pytest.mark.slow
def test_data(tmp_path: Path) -> None:
    run_page(DOCS / 'data.md', tmp_path)


@pytest.mark.slow
def test_own_dataset(tmp_path: Path) -> None:
    """As a reader would, with fewer images and iterations."""
    changes = {
        'num_train=480, num_val=40': 'num_train=12, num_val=4',
        '[:-80]': '[:-4]',
        '[-80:]': '[-4:]',
        'max_iters = 64, (128, 128), 600': 'max_iters = 64, (128, 128), 60',
        'iter_600.pth': 'iter_60.pth',
    }
    run_page(DOCS / 'own_dataset.md', tmp_path, changes)
    assert (tmp_path / 'work/scope/sheet.png').is_file()
    assert (tmp_path / 'work/inferred/val_000001.jpg.png').is_file()
