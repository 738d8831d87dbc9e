"""miniImageNet from its csv files: the split, its files, bad input."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from PIL import Image

from mmscope.datasets import write_mini_imagenet

ROOT = Path(__file__).parents[2]
SMALL = dict(per_class=6, num_val=2)
LABELS = [f'n{number:08d}' for number in range(100)]
# the usual shares: 64, 16 and 20 classes
SHARES = dict(train=LABELS[:64], val=LABELS[64:80], test=LABELS[80:])


def names_of(label: str) -> list[str]:
    return [f'{label}{number:08d}.jpg' for number in range(6)]


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The csv files of 100 classes with 6 images each."""
    root = tmp_path / 'mini'
    root.mkdir()
    for split, labels in SHARES.items():
        with open(root / f'{split}.csv', 'w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(['filename', 'label'])
            writer.writerows([n, la] for la in labels for n in names_of(la))
    return root


@pytest.fixture
def with_images(root: Path) -> Path:
    """The same with the images that they name."""
    for label in LABELS:
        for name in names_of(label):
            save(root / 'images' / name)
    return root


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Folders of ImageNet with 8 images a class, and one more class."""
    folder = tmp_path / 'imagenet' / 'train'
    for label in [*LABELS, 'n99999999']:
        for number in range(8):
            save(folder / label / f'{label}_{number}.JPEG')
    return folder


def read(root: Path, name: str) -> list[tuple[str, int]]:
    lines = (root / 'meta' / name).read_text().splitlines()
    pairs = (line.rsplit(' ', 1) for line in lines)
    return [(path, int(label)) for path, label in pairs]


def load(root: Path, split: str) -> BaseDataset:
    """The data set of the configs, without what changes images."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / 'configs/ablation/figure5_default.py')
    dataset = cfg[f'{split}_dataloader'].dataset
    dataset.update(data_root=str(root), pipeline=dataset.pipeline[:1])
    return DATASETS.build(dataset)


def test_each_class_is_split_and_nothing_lost(with_images: Path) -> None:
    assert write_mini_imagenet(with_images, **SMALL) == dict(
        train=400, val=200
    )
    train, val = (read(with_images, f'{n}.txt') for n in ('train', 'val'))
    assert Counter(label for _, label in train) == dict.fromkeys(range(100), 4)
    assert Counter(label for _, label in val) == dict.fromkeys(range(100), 2)
    classes = (with_images / 'meta/classes.txt').read_text().splitlines()
    assert classes == LABELS
    everything = {f'images/{n}': la for la in LABELS for n in names_of(la)}
    assert {path: classes[n] for path, n in train + val} == everything
    assert len(train + val) == len(everything)


def test_mmpretrain_reads_the_split(with_images: Path) -> None:
    write_mini_imagenet(with_images, **SMALL)
    dataset = load(with_images, 'val')
    assert len(dataset) == 200
    item = dataset[-1]
    assert item['img'].shape == (8, 8, 3)
    assert item['gt_label'] == 99
    assert LABELS[99] in item['img_path']


def test_the_seed_decides_and_classes_do_not_meddle(
    with_images: Path,
) -> None:
    write_mini_imagenet(with_images, **SMALL)
    before = read(with_images, 'val.txt')
    write_mini_imagenet(with_images, **SMALL)
    assert read(with_images, 'val.txt') == before
    write_mini_imagenet(with_images, **SMALL, seed=1, force=True)
    assert read(with_images, 'val.txt') != before
    # the rows of the csv in another order: the same split
    path = with_images / 'train.csv'
    head, *rows = path.read_text().splitlines()
    path.write_text('\n'.join([head, *reversed(rows)]))
    write_mini_imagenet(with_images, **SMALL, force=True)
    assert read(with_images, 'val.txt') == before


def test_imagenet_folders_give_a_draw(root: Path, imagenet: Path) -> None:
    write_mini_imagenet(root, imagenet=imagenet, **SMALL)
    pairs = read(root, 'train.txt') + read(root, 'val.txt')
    assert len({path for path, _ in pairs}) == len(pairs) == 600
    for path, label in pairs:
        assert path.startswith(f'../imagenet/train/{LABELS[label]}/')
    # which 6 of 8 is drawn for each class, not the first ones
    drawn = {Path(path).stem.rsplit('_', 1)[1] for path, _ in pairs}
    assert drawn == set('01234567')
    assert load(root, 'train')[0]['img'].shape == (8, 8, 3)


def test_a_linked_root_means_the_same_images(
    root: Path, imagenet: Path, tmp_path: Path
) -> None:
    link = tmp_path / 'far' / 'away' / 'link'
    link.parent.mkdir(parents=True)
    link.symlink_to(root)
    write_mini_imagenet(link, imagenet=imagenet, **SMALL)
    assert load(link, 'val')[0]['img'].shape == (8, 8, 3)


def test_another_split_is_kept_unless_forced(with_images: Path) -> None:
    write_mini_imagenet(with_images, **SMALL)
    before = read(with_images, 'train.txt')
    with pytest.raises(FileExistsError, match='meta/train.txt .*--force'):
        write_mini_imagenet(with_images, **SMALL, seed=1)
    assert read(with_images, 'train.txt') == before


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_val=0), 'num_val .* per_class=6, got 0'),
        (dict(num_val=6), 'num_val .* per_class=6, got 6'),
        (dict(per_class=5), 'list 6 images of n00000000, and 5'),
        (dict(images='a', imagenet='b'), 'images=a or imagenet=b, not both'),
    ],
    ids=str,
)
def test_bad_numbers(with_images: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_mini_imagenet(with_images, **{**SMALL, **options})
    assert not (with_images / 'meta').exists()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('file,label\na.jpg,b\n', 'val.csv has no column filename'),
        ('', 'val.csv has no column filename, label'),
        ('filename,label\na.jpg\n', 'val.csv, line 2: filename and label'),
        ('filename,label\na.jpg,n1\n', 'name 85 classes, and .* has 100'),
        (
            f'filename,label\n{names_of(LABELS[0])[0]},{LABELS[0]}\n',
            f'1 images are listed more than once.*{names_of(LABELS[0])[0]}',
        ),
    ],
    ids=['column', 'empty', 'value', 'classes', 'twice'],
)
def test_bad_csv(with_images: Path, text: str, message: str) -> None:
    (with_images / 'val.csv').write_text(text)
    with pytest.raises(ValueError, match=message):
        write_mini_imagenet(with_images, **SMALL)


def test_what_is_missing_is_named(with_images: Path, imagenet: Path) -> None:
    gone = names_of(LABELS[3])[1]
    (with_images / 'images' / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f'1 of 600 images .*{gone}'):
        write_mini_imagenet(with_images, **SMALL)
    with pytest.raises(FileNotFoundError, match='nowhere is no folder; --ima'):
        write_mini_imagenet(with_images, images='nowhere', **SMALL)
    with pytest.raises(FileNotFoundError, match='of 100 of 100 classes'):
        write_mini_imagenet(with_images, imagenet=with_images, **SMALL)
    with pytest.raises(ValueError, match='n00000000 has 8 images, 9 are'):
        write_mini_imagenet(
            with_images, imagenet=imagenet, per_class=9, num_val=2
        )
    (with_images / 'test.csv').unlink()
    with pytest.raises(FileNotFoundError, match=r'has no test\.csv'):
        write_mini_imagenet(with_images, **SMALL)


def test_the_tool(run_tool, with_images: Path, capsys) -> None:
    arguments = with_images, '--per-class', 6, '--num-val', 1
    run_tool('make_mini_imagenet.py', *arguments)
    assert '500 train and 100 val images' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='error: .*--force'):
        run_tool('make_mini_imagenet.py', *arguments, '--seed', 1)
