"""Inference on files, folders and arrays."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from rich.progress import track
from torch import nn

from mmscope.datasets.images import check_finite
from mmscope.datasets.wrappers import inner_datasets
from mmscope.engine.config_keys import misspelt_keys
from mmscope.engine.launch import load_config
from mmscope.engine.options import set_eta, set_tau
from mmscope.models import require_exits
from mmscope.registry import MODELS
from mmscope.utils.checkpoint import load_weights
from mmscope.utils.config import model_config, type_name
from mmscope.utils.missing import missing

from .inputs import ImageInput, bgr_image, iterate_images

# batches of images that wait for others of their size, at most
PATIENCE = 2


class Answer(NamedTuple):
    """An image and what was found in it.

    Attributes:
        sample: Data sample of the model with the predictions,
            ``exited``, ``exit_confidence`` and ``refined_share``.
        image: The image, (H, W, 3), RGB, uint8.
    """

    sample: BaseDataElement
    image: np.ndarray


class ScopeInferencer:
    """Segment, detect or classify images with early exit.

    Args:
        config: Config file of an mmscope model, or the config.
        checkpoint: File of the model's weights.
        eta: Confidence from which images exit; by default the config's.
        batch_size: Images for each forward pass; only images of the same
            size after the test pipeline share one, so that none is padded
            for another's sake.
        device: Device to run on; by default a GPU if there is one.
        keep_logits: Whether samples of segmentors keep ``seg_logits``,
            (K, H, W), which take most of the memory.
        tau: Score above which a cell is worth refining; by default the
            config's.

    Raises:
        FileNotFoundError: config or checkpoint do not exist.
        ValueError: ``eta`` or ``tau`` is out of range, the model has no
            exits, or the config a key that is not known.

    Examples:
        >>> segment = ScopeInferencer(config, checkpoint, eta=0.7)
        >>> samples = segment(['a.jpg', array])
        >>> samples[0].pred_sem_seg.data.shape, samples[0].exited
        >>> for sample, image in segment.stream('folder'):
        ...     print(sample.img_path, sample.exited, image.shape)
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        eta: float | None = None,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        keep_logits: bool = False,
        tau: float | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {batch_size}')
        cfg = config
        if not isinstance(config, Config):
            cfg = load_config(str(config))
        require_exits(cfg, 'ScopeInferencer')
        if eta is not None:
            set_eta(cfg, eta)
        if tau is not None:
            set_tau(cfg, tau)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.cfg = cfg
        self.batch_size = batch_size
        self.keep_logits = keep_logits
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        with misspelt_keys(cfg):
            model = MODELS.build(model_config(cfg))
        load_weights(model, str(checkpoint), cfg.filename)
        self.model: nn.Module = model.to(device).eval()
        self._load, self._prepare = _split_pipeline(cfg)

    def __call__(
        self,
        inputs: ImageInput | Iterable[ImageInput],
        progress: bool = False,
    ) -> list[BaseDataElement]:
        """Answer images and return all answers at once.

        Args:
            inputs: See :meth:`stream`.
            progress: Whether to show a progress bar.

        Returns:
            One data sample for each image, in order, with the task's
            predictions, ``exited``, ``exit_confidence`` and
            ``refined_share``.
        """
        return [answer.sample for answer in self.stream(inputs, progress)]

    def stream(
        self,
        inputs: ImageInput | Iterable[ImageInput],
        progress: bool = False,
    ) -> Iterator[Answer]:
        """Answer images batch by batch.

        Images are read when their turn comes and forgotten when they have
        been answered, so that memory does not grow with their number.

        Args:
            inputs: An image file, a folder, which is searched with all
                folders in it, an array (H, W, 3) or (H, W), uint8, in
                OpenCV's channel order (BGR), or an iterable of these, such
                as a list or an endless generator.
            progress: Whether to show a progress bar.

        Yields:
            The images in order, each with its data sample.

        Raises:
            FileNotFoundError: there is no such file or no image in a folder.
            OSError: a file is no image.
            TypeError: an input is none of these.
            ValueError: an array is no image, or pixels are not finite.
        """
        images = iterate_images(inputs)
        if isinstance(inputs, str | Path | list | tuple):
            images = list(images)  # so that the bar knows how many there are
        items = (self.read(image) for image in images)
        total = len(images) if isinstance(images, list) else None
        yield from track(
            self._answer(items), 'Images', total=total, disable=not progress
        )

    def read(self, image: ImageInput) -> dict:
        """Run the test pipeline on one image.

        Args:
            image: A file or an array.

        Returns:
            'inputs', (3, H, W), and 'data_samples'; and 'image', (H, W, 3)
            in RGB, to draw on.

        Raises:
            ValueError: it is too narrow for the pipeline, no image, or has
                pixels that are not finite.
        """
        if isinstance(image, np.ndarray):
            pixels = bgr_image(image)
            size, path = pixels.shape[:2], ''
            loaded = dict(
                img=pixels, img_shape=size, ori_shape=size, img_path=path
            )
        else:
            path = Path(image)
            if not path.is_file():
                raise missing('image', path)
            loaded = self._load(dict(img_path=str(path)))
        original = bgr_image(loaded['img'])[..., ::-1].copy()
        loaded.setdefault('img_id', 0)
        try:
            item = dict(self._prepare(loaded), image=original)
        except cv2.error as err:
            height, width = original.shape[:2]
            raise ValueError(
                f'{loaded["img_path"] or "an array"} is {height} x {width} '
                '(H x W), and a side of it vanishes where the test pipeline '
                f'resizes it; crop or pad it: {err}'
            ) from err
        name = f'{path or "an array"}, as the test pipeline leaves it,'
        check_finite(item['inputs'].numpy(), name)
        return item

    def _answer(self, items: Iterable[dict]) -> Iterator[Answer]:
        """Predict in batches of images of equal size, yield in order."""
        waiting: deque[_Place] = deque()
        for item in items:
            waiting.append(_Place(item))
            batch = _like(waiting, waiting[-1])
            if len(batch) == self.batch_size:
                self._predict(batch)
            yield from _done(waiting)
            if len(waiting) == PATIENCE * self.batch_size:
                self._predict(_like(waiting, waiting[0]))
                yield from _done(waiting)
        while waiting:
            self._predict(_like(waiting, waiting[0]))
            yield from _done(waiting)

    @torch.no_grad()
    def _predict(self, batch: list['_Place']) -> None:
        samples = self.model.test_step(
            dict(
                inputs=[place.item['inputs'] for place in batch],
                data_samples=[place.item['data_samples'] for place in batch],
            )
        )
        for place, sample in zip(batch, samples, strict=True):
            if not self.keep_logits:
                sample.pop('seg_logits', None)
            place.answer = Answer(sample, place.item['image'])


@dataclass
class _Place:
    """An image in the queue, and its answer once there is one."""

    item: dict
    answer: Answer | None = None


def _like(waiting: Iterable[_Place], one: _Place) -> list[_Place]:
    """Those without an answer that can share a batch with one of them."""
    size = one.item['inputs'].shape
    return [
        place
        for place in waiting
        if place.answer is None and place.item['inputs'].shape == size
    ]


def _done(waiting: deque[_Place]) -> Iterator[Answer]:
    """Take the answers at the head of the queue."""
    while waiting and waiting[0].answer is not None:
        yield waiting.popleft().answer


def _split_pipeline(cfg: Config) -> tuple[Compose, Compose]:
    """The part of a test pipeline that reads an image, and the rest.

    Raises:
        ValueError: the pipeline reads no file.
    """
    dataset = next(inner_datasets(cfg.test_dataloader.dataset))
    steps = [
        step
        for step in dataset.pipeline
        if type_name(step) != 'LoadAnnotations'
    ]
    names = [type_name(step) for step in steps]
    if 'LoadImageFromFile' not in names:
        raise ValueError(
            f'the test pipeline has no LoadImageFromFile: {names}'
        )
    index = names.index('LoadImageFromFile')
    load = dict(type='mmscope.LoadChecked', transform=steps[index])
    return Compose([*steps[:index], load]), Compose(steps[index + 1 :])
