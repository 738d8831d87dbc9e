"""Which part of the project may import which, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmscope'
# the only modules that know one of these
OWNERS = {
    'mmseg': (
        'models/data_preprocessor.py',
        'models/segmentor.py',
        'models/reduced_segmentor.py',
        'models/vision_transformer.py',
    ),
    'mmdet': ('models/detector.py', 'models/roi_heads.py'),
    'mmpretrain': ('models/classifier.py', 'models/distilled.py'),
}
# each part imports only what is below it; registry and version are at the
# bottom, floor 0
FLOOR = {
    'export': 6,
    'planning': 6,
    'apis': 5,
    'exits': 5,
    'benchmark': 5,
    'engine': 4,
    'visualization': 4,
    'evaluation': 4,
    'models': 3,
    'datasets': 3,
    'functional': 2,
    'utils': 2,
    'ops': 1,
}


def imported_names(path: Path, source: str | None = None) -> set[str]:
    """Return the full dotted names that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text() if source is None else source)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_module(path, node)
            names.update(f'{base}.{alias.name}' for alias in node.names)
        elif is_import_call(node):
            names.add(node.args[0].value)
    return names


def absolute_module(path: Path, node: ast.ImportFrom) -> str:
    """Resolve ``from ..ops import x`` against the place of the file."""
    if not node.level:
        return node.module
    parts = path.relative_to(ROOT).with_suffix('').parts
    parents = parts[: len(parts) - node.level]
    return '.'.join([*parents, *([node.module] if node.module else [])])


def is_import_call(node: ast.AST) -> bool:
    """Tell ``import_module('x')`` and ``__import__('x')``."""
    if not (isinstance(node, ast.Call) and node.args):
        return False
    name = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
    return (
        name in ('import_module', '__import__')
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


def is_within(name: str, *packages: str) -> bool:
    return any(f'{name}.'.startswith(f'{package}.') for package in packages)


def files_in(folder: Path) -> list[Path]:
    files = sorted(folder.rglob('*.py'))
    assert files, f'no Python file under {folder}'
    return files


def violations(files: list[Path], allowed, within: str) -> list[str]:
    """List imports from ``within`` that are not ``allowed``."""
    return [
        f'{path.relative_to(ROOT)} imports {name}'
        for path in files
        for name in sorted(imported_names(path))
        if is_within(name, within) and not allowed(path, name)
    ]


@pytest.mark.parametrize(
    'source, expected',
    [
        ('import mmseg.models as m', 'mmseg.models'),
        ('def f():\n    from mmdet import x', 'mmdet.x'),
        ('from ..ops import scan', 'mmscope.ops.scan'),
        ('from .. import ops', 'mmscope.ops'),
        ('from . import layers', 'mmscope.models.layers'),
        ("import_module('mmseg')", 'mmseg'),
        ("importlib.import_module('mmseg')", 'mmseg'),
        ("__import__('mmseg')", 'mmseg'),
    ],
)
def test_the_reader_sees_an_import(source: str, expected: str) -> None:
    path = PACKAGE / 'models' / 'layers.py'
    assert imported_names(path, source) == {expected}


def part_of(name: str) -> str:
    """Tell the part of a dotted name: ``mmscope.ops.scan.x`` is of 'ops'."""
    return f'{name}.'.split('.')[1]


@pytest.mark.parametrize('part', sorted(FLOOR))
def test_a_part_imports_only_what_is_below(part: str) -> None:
    def is_below(path: Path, name: str) -> bool:
        other = part_of(name)
        return other == part or FLOOR.get(other, 0) < FLOOR[part]

    assert not violations(files_in(PACKAGE / part), is_below, 'mmscope')


def test_every_part_has_a_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders == set(FLOOR)


@pytest.mark.parametrize('part', ['ops', 'functional'])
def test_ops_and_functional_stand_alone(part: str) -> None:
    def same_part(path: Path, name: str) -> bool:
        return is_within(name, f'mmscope.{part}')

    assert not violations(files_in(PACKAGE / part), same_part, 'mmscope')


@pytest.mark.parametrize('part', ['ops', 'functional'])
@pytest.mark.parametrize('library', ['mmengine', 'mmcv'])
def test_ops_and_functional_need_torch_only(part: str, library: str) -> None:
    files = files_in(PACKAGE / part)
    assert not violations(files, lambda path, name: False, library)


@pytest.mark.parametrize('library', sorted(OWNERS))
def test_only_one_module_knows_each_upstream(library: str) -> None:
    def is_owner(path: Path, name: str) -> bool:
        return path in [PACKAGE / owner for owner in OWNERS[library]]

    assert not violations(files_in(PACKAGE), is_owner, library)


def test_the_package_imports_no_tools() -> None:
    files = files_in(PACKAGE)
    for outside in ('tools', 'tests', 'configs', 'benchmarks'):
        assert not violations(files, lambda path, name: False, outside)


def changes_sys_path(node: ast.AST) -> bool:
    """Tell ``sys.path.x``, ``sys.path = x`` and ``sys.path[i] = x``."""

    def is_sys_path(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and (
            ast.unparse(node) == 'sys.path'
        )

    if isinstance(node, ast.Attribute) and is_sys_path(node.value):
        return True
    target = node.value if isinstance(node, ast.Subscript) else node
    reads = isinstance(getattr(node, 'ctx', None), ast.Load)
    return is_sys_path(target) and not reads


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('sys.path.insert(0, x)', True),
        ('sys.path = x', True),
        ('sys.path += x', True),
        ('sys.path[:0] = x', True),
        ('del sys.path[0]', True),
        ('x = [*sys.path, sys.path[0]]', False),
        ('os.path.join(x)', False),
    ],
)
def test_the_reader_sees_a_change_of_sys_path(
    source: str, expected: bool
) -> None:
    assert any(map(changes_sys_path, ast.walk(ast.parse(source)))) == expected


def test_nothing_changes_sys_path() -> None:
    folders = (PACKAGE, ROOT / 'tools', ROOT / 'configs', ROOT / 'tests')
    files = [path for folder in folders for path in files_in(folder)]
    assert not [
        f'{path.relative_to(ROOT)}:{node.lineno}'
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if changes_sys_path(node)
    ]


# names of others that are theirs to change, where no public way exists
PRIVATE = {
    '_coco_api': 'CocoMetric says by no other name whether it has a truth',
    '_paramsEval': 'COCOeval.accumulate reads it, which evaluate alone sets',
    '_current_level': 'torch tells forward-mode derivatives by nothing else',
    '_C': 'dispatch keys of torch have no public names',
    '_after_ADInplaceOrView_keyset': 'dispatch keys have no public names',
    '_DEFAULT_SUPPORTED_FLOP_OPS': 'mmengine counts other operators by none',
    '_forward_hooks': 'torch says by no other name that a layer has hooks',
    '_forward_pre_hooks': 'likewise; old weight_norm and pruning are hooks',
    '_has_any_global_hook': 'likewise of hooks of all modules',
    '_functorch': 'torch says by no other name that vmap or jvp runs',
    '_cache_enabled': 'likewise that parametrized weights are cached',
    '_reconstruct': "numpy's pickles name it, and are read by a list of names",
    '_exit': 'os says by no other name to end a process of a thread',
    '_get_mmengine_home': 'mmengine keeps models there, and tells by none',
}
NAMEDTUPLE = {'_replace', '_asdict', '_make', '_fields'}


def private_names(path: Path) -> set[str]:
    """Return the private names that a file takes from other objects."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, 'id', '')
            is_super = getattr(getattr(node.value, 'func', None), 'id', '')
            if owner not in ('self', 'cls') and is_super != 'super':
                names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update(alias.name for alias in node.names)
    return {
        name
        for name in names - NAMEDTUPLE
        if name.startswith('_') and not name.endswith('__')
    }


def test_private_names_of_others_are_listed_with_a_reason() -> None:
    taken = {path: private_names(path) for path in files_in(PACKAGE)}
    found = {
        f'{path.relative_to(ROOT)}: {name}'
        for path, names in taken.items()
        for name in names - set(PRIVATE)
    }
    assert not found
    assert set().union(*taken.values()) == set(PRIVATE)
