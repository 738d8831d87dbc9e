"""What exit policies and cell scores may look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .stages import CoarseStage, Maps


@dataclass
class Evidence:
    """What an exit policy may look at.

    Attributes:
        coarse: The coarse stage of B images.
        logits: Exit head on the coarse class token (B, K), or None without
            one.
        images: Padded images, (B, 3, H', W').
        content: 1 where a pixel is no padding, (B, 1, H, W).
        cell_side: Side of a coarse cell in pixels.
        paths: File of each image, B, or none at all.
        decoder: Function from coarse maps to the logits of every pixel,
            (B, K, h, w); None in models without any.
        judge: Function from these logits to the pixels that are wrong, and
            to those that count, 0 or 1, (B, h, w) and (B, 1, H, W); None
            without ground truth.
        decoded: Logits that :meth:`decode` gave, None until it is called.
    """

    coarse: CoarseStage
    logits: Tensor | None
    images: Tensor
    content: Tensor
    cell_side: int
    paths: Sequence[str] = ()
    decoder: Callable[[Maps], Tensor] | None = None
    judge: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    decoded: Tensor | None = field(default=None, init=False)
    _certainty: Tensor | None = field(default=None, init=False)

    @property
    def files(self) -> list[str]:
        """File of each image, '' where it has none."""
        return list(self.paths) or [''] * len(self.images)

    def decode(self, who: str = 'this') -> Tensor:
        """Decode the coarse maps, once: logits of every pixel, (B, K, h, w).

        Args:
            who: Option that asks for it, for the error.

        Raises:
            TypeError: the model predicts no pixels.
        """
        if self.decoder is None:
            raise TypeError(
                f'{who} looks at the pixels of the coarse answer, and this '
                'model does not decode them: use mmscope.MambaScopeSegmentor, '
                f'or another {who.split("=")[0]}'
            )
        if self.decoded is None:
            self.decoded = self.decoder(self.coarse.maps)
        return self.decoded

    def certainty(self, who: str = 'this') -> Tensor:
        """Probability of the class that the coarse answer gives each pixel.

        With a single channel of logits, which a binary decode head has, it
        is the larger one of the foreground's and the background's.

        Args:
            who: Option that asks for it, for the error.

        Returns:
            (B, h, w) in float32.

        Raises:
            TypeError: the model predicts no pixels.
        """
        logits = self.decode(who)
        if self._certainty is None:
            logits = logits.detach().float()
            if logits.shape[1] == 1:
                # a sigmoid, as the softmax against a background of 0
                logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
            self._certainty = logits.softmax(dim=1).amax(dim=1)
        return self._certainty

    def errors(self, who: str = 'this') -> tuple[Tensor, Tensor]:
        """Pixels that the coarse answer gets wrong, and those that count.

        Args:
            who: Option that asks for it, for the error.

        Returns:
            0 or 1, (B, h, w) and (B, 1, H, W).

        Raises:
            TypeError: the model predicts no pixels, or there is no ground
                truth.
        """
        logits = self.decode(who)
        if self.judge is None:
            raise TypeError(
                f'{who} compares the coarse answer with the ground truth, '
                'which these images have not: give the data pipeline '
                "dict(type='mmscope.LoadMask'), or use another "
                f'{who.split("=")[0]}'
            )
        return self.judge(logits.detach())
