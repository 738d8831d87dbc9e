"""Answers to images are told apart by the path of each."""

import numpy as np

from mmscope.exits import ExitAnswers


def test_drops_of_equal_names_in_two_folders_are_two() -> None:
    one = np.ones(1)
    answers = ExitAnswers(
        names=['a/1.png', 'b/1.png'],
        confidence=np.ones(2),
        windows=[one, one],
        entries=[((), ())] * 2,
        quality=np.array([[70.0, 75.0], [90.0, 89.0]]),
        gflops=np.ones((2, 2)),
        seconds=np.ones((2, 2)),
    )
    assert answers.quality_drops() == {'a/1.png': 5.0, 'b/1.png': -1.0}
