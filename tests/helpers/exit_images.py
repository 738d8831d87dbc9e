"""A dataset of random images for a tiny segmentor."""

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader


class Images(list):
    """A dataset that says what it loads, as mmengine's do."""

    def get_data_info(self, index: int) -> dict:
        name = self[index]['data_samples'].img_path
        return dict(img_path=name, sample_idx=index)


def picture(scale: float, size: tuple[int, int] = (64, 96)) -> dict:
    return dict(
        inputs=scale * torch.randn(3, *size),
        data_samples=SegDataSample(
            gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, *size))),
            metainfo=dict(
                img_path=f'{scale}.jpg', img_shape=size, ori_shape=size
            ),
        ),
    )


def collate(items: list[dict]) -> dict:
    return {key: [item[key] for item in items] for key in items[0]}


def load(data: list[dict], batch_size: int = 2) -> DataLoader:
    return DataLoader(data, batch_size, collate_fn=collate)
