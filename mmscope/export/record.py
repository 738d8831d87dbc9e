"""What a server has to know of exported graphs beside them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = 'export.json'
# version of ONNX's operators that graphs are written in
OPSET = 18


@dataclass(frozen=True)
class ExportRecord:
    """Settings of a folder of exported graphs, its export.json.

    Attributes:
        task: 'segmentation' or 'classification'.
        classes: Names of the classes, empty where the config has none.
        image_size: Height and width that the graphs take.
        mean: Mean of each channel, subtracted first.
        std: Deviation of each channel, divided by.
        bgr_to_rgb: Whether channels are swapped before that.
        eta: Confidence from which an image exits.
        exit_score: What the confidence is, a policy or the exit head.
        share: Share of the coarse cells that the fine graph refines.
        fine_reads: Outputs of the coarse graph that the fine graph takes
            beside the image.
        decode_reads: Those that the graph of exited images takes; empty
            where the coarse graph answers them itself.
        opset: Version of ONNX's operators.
        mmscope: Version that exported.
    """

    task: str
    classes: list[str]
    image_size: list[int]
    mean: list[float]
    std: list[float]
    bgr_to_rgb: bool
    eta: float
    exit_score: str
    share: float
    fine_reads: list[str]
    decode_reads: list[str]
    opset: int
    mmscope: str

    @property
    def answer(self) -> str:
        """Output that answers: 'labels' of pixels, or 'logits' of classes."""
        return 'labels' if self.task == 'segmentation' else 'logits'

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        text = json.dumps(asdict(self), indent=2)
        (folder / FILE).write_text(text + '\n')

    @classmethod
    def load(cls, folder: Path) -> 'ExportRecord':
        """Read it from a folder.

        Raises:
            FileNotFoundError: the folder has none.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} does not exist: tools/export.py writes it beside '
                'coarse.onnx and fine.onnx'
            )
        return cls(**json.loads(path.read_text()))
