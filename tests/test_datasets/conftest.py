"""One small set of sample data for all tests that only read it."""

from pathlib import Path

import pytest

from mmscope.datasets import write_sample_data

SMALL = dict(num_train=12, num_val=6, size=(96, 144))


@pytest.fixture(scope='session')
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('sample') / 'data'
    write_sample_data(root, **SMALL)
    return root
