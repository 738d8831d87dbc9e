"""Training and testing on data sets that are not ours."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# eight classes; labels are those of the files
EIGHT = """
void = {void}
metainfo = dict(
    classes=tuple('abcdefgh'), palette=[[30 * i] * 3 for i in range(8)]
)
model['data_preprocessor'].update(seg_pad_val=void)
model['backbone'].update(exit_head=dict(num_classes=8))
for head in ('decode_head', 'auxiliary_head'):
    model[head].update(num_classes=8, ignore_index=void)
check = dict(type='mmscope.CheckLabels', num_classes=8, ignore_index=void)
data = dict(
    type='BaseSegDataset', metainfo=metainfo, reduce_zero_label=False
)
train_pipeline[2] = check
test_pipeline[3] = check
train_dataloader['dataset'].update(data)
val_dataloader['dataset'].update(data)
val_evaluator = [
    dict(type='IoUMetric', ignore_index=void),
    dict(type='mmscope.ExitMetric', ignore_index=void),
]
test_evaluator = val_evaluator
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks['checkpoint'].update(interval=2, save_best=None)
"""


@pytest.fixture
def eight_classes(
    tiny_config: Callable[..., Path], sample_root: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Config of the sample data with some void label, and the data."""

    def write(void: int = 255, more: str = '') -> Path:
        data = tmp_path / 'eight'
        for folder in ('images', 'annotations'):
            shutil.copytree(sample_root / folder, data / folder)
        for path in (data / 'annotations').rglob('*.png'):
            mask = np.array(Image.open(path)) % 8
            mask[:9] = void
            Image.fromarray(mask.astype(np.uint8)).save(path)
        for split in ('training', 'validation'):
            files = sorted((data / 'images' / split).iterdir())
            names = ''.join(f'{path.stem}\n' for path in files)
            (data / f'{split}.txt').write_text(names)
        return tiny_config(EIGHT.format(void=void) + more, data=data)

    return write


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder over http."""
    servers = []

    def start(folder: Path) -> str:
        handler = partial(Silent, directory=str(folder))
        servers.append(ThreadingHTTPServer(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever).start()
        return f'http://127.0.0.1:{servers[-1].server_port}'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize('void', [0, 8, 254])
def test_any_void_label_is_trained_and_judged(
    train, eight_classes, tmp_path, void
) -> None:
    runner = train(eight_classes(void), tmp_path / 'work')
    scores = runner.message_hub.log_scalars
    assert np.isfinite(scores['val/mIoU'].current())
    assert 0 <= scores['val/exit/head_F1'].current() <= 100
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()


def test_padding_of_another_label_is_named_before_training(
    train, eight_classes, tmp_path
) -> None:
    """Void is 0, and images are padded with mmseg's 255."""
    config = eight_classes(
        0, "model['data_preprocessor'].update(\n    seg_pad_val=255\n)\n"
    )
    with pytest.raises(ValueError, match='seg_pad_val is 255, and .* is 0;'):
        train(config, tmp_path / 'work')
    assert not list(tmp_path.rglob('*.pth'))


FORMAT_ONLY = """
# test images have no masks
test_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data,
        data_root=val_dataloader['dataset']['data_root'],
        data_prefix=dict(img_path='images/validation'),
        pipeline=test_pipeline,
    ),
)
test_evaluator = [
    dict(type='IoUMetric', format_only=True, output_dir='{out}'),
    dict(type='mmscope.ExitMetric'),
]
"""


def test_masks_are_written_for_images_without_any(
    train, run_tool, eight_classes, tmp_path
) -> None:
    out = tmp_path / 'out'
    config = eight_classes(more=FORMAT_ONLY.format(out=out))
    train(config, tmp_path / 'work')
    run_tool(
        *('test.py', config, tmp_path / 'work/iter_2.pth'),
        *('--work-dir', tmp_path / 'test', '--out', tmp_path / 'metrics'),
    )
    names = sorted(p.stem for p in (tmp_path / 'metrics').rglob('*.png'))
    images = tmp_path / 'eight' / 'images' / 'validation'
    assert names == sorted(path.stem for path in images.iterdir())
    metrics = json.loads((tmp_path / 'metrics/metrics.json').read_text())
    assert 0 <= metrics['exit/rate'] <= 1
    assert 'mIoU' not in metrics


HTTP = """
http = dict(backend='http')
load_image = dict(type='LoadImageFromFile', backend_args=http)
load_mask = dict(type='mmscope.LoadMask', backend_args=http)
for loader, pipeline, split in (
    (train_dataloader, train_pipeline, 'training'),
    (val_dataloader, test_pipeline, 'validation'),
):
    steps = [load_image, load_mask, check, *pipeline[3:]]
    if split == 'validation':
        steps = [load_image, pipeline[1], load_mask, check, pipeline[-1]]
    loader['dataset'].update(
        ann_file=loader['dataset']['data_root'] + f'/{split}.txt',
        data_root='',
        data_prefix=dict(
            img_path=f'URL/images/{split}',
            seg_map_path=f'URL/annotations/{split}',
        ),
        pipeline=steps,
    )
"""


def test_images_and_masks_come_over_http(
    train, eight_classes, serve, tmp_path
) -> None:
    (tmp_path / 'eight').mkdir()
    url = serve(tmp_path / 'eight')
    (tmp_path / 'eight').rmdir()
    runner = train(
        eight_classes(more=HTTP.replace('URL', url)), tmp_path / 'work'
    )
    assert np.isfinite(runner.message_hub.log_scalars['val/mIoU'].current())


def test_masks_of_equal_names_are_not_lost(
    run_tool, eight_classes, tmp_path
) -> None:
    config = eight_classes()
    images = tmp_path / 'eight' / 'images' / 'validation'
    masks = tmp_path / 'eight' / 'annotations' / 'validation'
    for folder, suffix in ((images, '.jpg'), (masks, '.png')):
        (folder / 'more').mkdir()
        source = min(folder.glob(f'*{suffix}'))
        shutil.copy(source, folder / 'more' / source.name)
    checkpoint = tmp_path / 'any.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), checkpoint)
    with pytest.raises(ValueError, match='same name.*written to .*out'):
        run_tool(
            *('test.py', config, checkpoint),
            *('--work-dir', tmp_path, '--out', tmp_path / 'out'),
            *('--cfg-options', 'test_dataloader.dataset.indices=None'),
        )
