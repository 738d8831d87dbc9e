"""GPU hours of the paper's trainings, the table of docs/reproducing.md.

python -m benchmarks.hours
"""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from mmscope.benchmark.build import build_model
from mmscope.engine.launch import load_config
from mmscope.planning import hours_between, training_work
from mmscope.planning.schedule import read_loop
from mmscope.planning.work import milliseconds_per_giga

ROOT = Path(__file__).parents[1]
NAMES = (
    *(f'imagenet/mambascope_{size}_in1k' for size in 'tsb'),
    *(f'imagenet/vim_{size}_in1k' for size in 'tsb'),
    *(f'upernet/mambascope_{size}_ade20k_paper' for size in 'ts'),
    *(f'upernet/vim_{size}_ade20k' for size in 'ts'),
    'cascade_mask_rcnn/mambascope_t_coco_paper',
    'ablation/table4_max_softplus',
)
# images of a data set that is gone through by epochs
SIZES = {'imagenet': 1_281_167, 'ablation': 50_000}


def images_of(name: str, cfg: Config) -> int:
    """Images that a training goes through, each time that one is shown."""
    loop = read_loop(cfg)
    return loop.length * SIZES.get(name.split('/')[0], loop.reference)


def row_of(name: str) -> str:
    """The row of a config: images, work and hours of one H100.

    Args:
        name: Config below configs/, without its suffix.
    """
    path = f'configs/{name}.py'
    cfg = load_config(str(ROOT / path))
    model = build_model(cfg)
    if hasattr(model.backbone, 'alpha'):
        model.backbone.alpha = 1.0
    images, work = images_of(name, cfg), training_work(cfg, model)
    low, high = hours_between(images, work, milliseconds_per_giga(work))
    return (
        f'| `{path}` | {images / 1e6:.4g} | {work.giga:.3f} '
        f'| {low:.0f}–{high:.0f} |'
    )


def main() -> None:
    """Print the table."""
    console = Console(markup=False, highlight=False, width=200)
    console.print('| config | million images | G an image | GPU hours |')
    console.print('|---|---|---|---|')
    for name in NAMES:
        console.print(row_of(name))


if __name__ == '__main__':
    main()
