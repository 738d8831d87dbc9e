"""Inference on files, folders and arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from rich.progress import Progress
from torch import nn

from mmscope.engine.launch import load_config
from mmscope.engine.options import require_exits, set_eta
from mmscope.registry import MODELS
from mmscope.utils.checkpoint import load_weights

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')

ImageInput = str | Path | np.ndarray


class ScopeInferencer:
    """Segment or detect in images with early exit.

    Args:
        config: Config file of an mmscope model, or the config.
        checkpoint: Its weights.
        eta: Confidence from which images exit; by default the config's.
        batch_size: Images for each forward pass; only images of the same
            size after the test pipeline share one, so that none is padded
            for another's sake.
        device: Where to run; by default a GPU if there is one.

    Raises:
        FileNotFoundError: config or checkpoint do not exist.
        ValueError: ``eta`` is out of range or the model has no exits.

    Examples:
        >>> segment = ScopeInferencer(config, checkpoint, eta=0.7)
        >>> samples = segment(['a.jpg', array])
        >>> samples[0].pred_sem_seg.data.shape, samples[0].exited
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        eta: float | None = None,
        batch_size: int = 8,
        device: str | torch.device | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {batch_size}')
        cfg = config
        if not isinstance(config, Config):
            cfg = load_config(str(config))
        require_exits(cfg, 'ScopeInferencer')
        if eta is not None:
            set_eta(cfg, eta)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.cfg = cfg
        self.batch_size = batch_size
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        model = MODELS.build(cfg.model)
        load_weights(model, str(checkpoint), cfg.filename)
        self.model: nn.Module = model.to(device).eval()
        pipeline = [
            step
            for step in cfg.test_dataloader.dataset.pipeline
            if not step['type'].endswith('LoadAnnotations')
        ]
        self._load, self._prepare = _split_loading(pipeline)

    @torch.no_grad()
    def __call__(
        self,
        inputs: ImageInput | Sequence[ImageInput],
        progress: bool = False,
    ) -> list[BaseDataElement]:
        """Answer images.

        Args:
            inputs: An image file, a folder of them, an array (H, W, 3) in
                OpenCV's channel order (BGR), or a list of files and arrays.
            progress: Whether to show a progress bar.

        Returns:
            One data sample for each image, in order, with the task's
            predictions, ``exited`` and ``exit_confidence``.

        Raises:
            FileNotFoundError: there is no such file or no image in a folder.
            OSError: a file is no image.
            TypeError: an input is neither.
        """
        images = _listed(inputs)
        items = [self.read(image) for image in images]
        found: list[BaseDataElement | None] = [None] * len(items)
        with Progress(disable=not progress) as bar:
            task = bar.add_task('Images', total=len(items))
            for batch in _buckets(items, self.batch_size):
                samples = self.model.test_step(
                    dict(
                        inputs=[items[i]['inputs'] for i in batch],
                        data_samples=[items[i]['data_samples'] for i in batch],
                    )
                )
                for i, sample in zip(batch, samples, strict=True):
                    found[i] = sample
                bar.advance(task, len(batch))
        return found

    def read(self, image: ImageInput) -> dict:
        """Run the test pipeline on one image.

        Returns:
            'inputs', (3, H, W), and 'data_samples'; and 'image', (H, W, 3)
            in RGB, to draw on.
        """
        if isinstance(image, np.ndarray):
            _check_array(image)
            loaded = dict(
                img=image,
                img_shape=image.shape[:2],
                ori_shape=image.shape[:2],
                img_path='',
            )
        else:
            path = Path(image)
            if not path.is_file():
                raise FileNotFoundError(f'image {path} does not exist')
            loaded = self._load(dict(img_path=str(path)))
        original = loaded['img'][..., ::-1]
        loaded.setdefault('img_id', 0)
        return dict(self._prepare(loaded), image=original)


def find_images(folder: str | Path) -> list[Path]:
    """List the images of a folder, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not found:
        raise FileNotFoundError(
            f'{folder} has no image; allowed are {", ".join(IMAGE_SUFFIXES)}'
        )
    return found


def _listed(inputs: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    if isinstance(inputs, np.ndarray):
        return [inputs]
    if isinstance(inputs, str | Path):
        path = Path(inputs)
        if path.is_dir():
            return list(find_images(path))
        return [path]
    if not isinstance(inputs, Sequence):
        raise TypeError(
            'inputs must be a path, an array (H, W, 3) or a list of these, '
            f'got {type(inputs).__name__}'
        )
    return [image for one in inputs for image in _listed(one)]


def _check_array(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            'an array must be an image (H, W, 3), got shape '
            f'{tuple(image.shape)}'
        )


def _buckets(items: list[dict], batch_size: int) -> list[list[int]]:
    """Group images of equal size into batches."""
    by_size: dict[torch.Size, list[int]] = {}
    for index, item in enumerate(items):
        by_size.setdefault(item['inputs'].shape, []).append(index)
    return [
        indices[start : start + batch_size]
        for indices in by_size.values()
        for start in range(0, len(indices), batch_size)
    ]


def _split_loading(pipeline: list[dict]) -> tuple[Compose, Compose]:
    """The part of a pipeline that reads a file, and the rest.

    Raises:
        ValueError: the pipeline reads no file.
    """
    types = [step['type'] for step in pipeline]
    for index, name in enumerate(types):
        if name.endswith('LoadImageFromFile'):
            checked = dict(
                type='mmscope.LoadChecked', transform=pipeline[index]
            )
            return (
                Compose([*pipeline[:index], checked]),
                Compose(pipeline[index + 1 :]),
            )
    raise ValueError(f'the test pipeline has no LoadImageFromFile: {types}')
