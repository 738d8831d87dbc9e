"""The targets of the exit head: which classes an image contains."""

import pytest
import torch

from mmscope.functional.targets import (
    classes_in_instances,
    classes_in_mask,
)


def test_a_mask_gives_the_classes_in_it() -> None:
    masks = torch.tensor([[[0, 2, 2], [0, 255, 2]], [[3, 3, 3], [3, 3, 255]]])
    expected = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(classes_in_mask(masks, 4), expected)


def test_a_mask_without_batch_axis_is_a_batch_of_one() -> None:
    mask = torch.tensor([[1, 1], [0, 1], [1, 1]], dtype=torch.uint8)
    expected = torch.tensor([[1.0, 1.0]])
    torch.testing.assert_close(classes_in_mask(mask, 2), expected)


@pytest.mark.parametrize('ignored', [255, 0, -1])
def test_only_ignored_pixels_give_zeros(ignored: int) -> None:
    masks = torch.full((2, 3, 5), ignored)
    present = classes_in_mask(masks, 4, ignore_index=ignored)
    torch.testing.assert_close(present, torch.zeros(2, 4))


@pytest.mark.parametrize(
    'label, fix',
    [
        (4, 'found 4: set num_classes to at least 5, or .*reduce_zero_label'),
        (-1, 'found -1: remove the negative labels, or'),
    ],
)
def test_a_label_that_is_no_class_is_refused(label: int, fix: str) -> None:
    mask = torch.tensor([[0, 255], [label, 1]])
    with pytest.raises(ValueError, match=fix) as caught:
        classes_in_mask(mask, 4)
    assert 'mask may hold 0 to 3 and 255 (ignored)' in str(caught.value)


def test_many_wrong_labels_are_cut_short() -> None:
    with pytest.raises(ValueError, match='found 2, 3, 4, 5, 6, ...: set'):
        classes_in_mask(torch.arange(12).view(3, 4), 2)


@pytest.mark.parametrize(
    'mask, message',
    [
        (torch.zeros(2, 2), r'integer class indices, got torch.float32'),
        (torch.zeros(1, 1, 2, 2).long(), r'got \(1, 1, 2, 2\): squeeze'),
    ],
)
def test_what_is_no_mask_is_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classes_in_mask(mask, 4)


def test_instances_give_their_classes() -> None:
    labels = [torch.tensor([2, 0, 2]), torch.tensor([]), torch.tensor([1])]
    expected = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(classes_in_instances(labels, 3), expected)


def test_no_images_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match='got an empty list: pass an empty'):
        classes_in_instances([], 3)


@pytest.mark.parametrize(
    'labels, message',
    [
        (
            torch.tensor([3]),
            r'labels\[1\] may hold 0 to 2, found 3: set num_c',
        ),
        (torch.tensor([-2]), r'found -2: remove the negative'),
        (torch.tensor([0.5]), r'labels\[1\] must hold integer'),
        (torch.tensor([[1]]), r'labels\[1\] must be \(N,\), got \(1, 1\)'),
    ],
)
def test_wrong_instance_labels_are_refused(
    labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classes_in_instances([torch.tensor([0]), labels], 3)


@pytest.mark.parametrize('call', [classes_in_mask, classes_in_instances])
def test_a_class_count_below_one_is_refused(call) -> None:
    labels = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(ValueError, match='at least 1, got 0'):
        call(labels, 0)
