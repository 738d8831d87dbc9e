"""Answers of docs/faq.md that no other test holds to the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lines import imports_no_operators

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / 'docs/faq.md').read_text()
QUESTIONS = re.split(r'^### ', TEXT, flags=re.MULTILINE)[1:]
TESTS = sorted(set(re.findall(r'<!-- (tests/\S+) -->', TEXT)))
# answers that say what is not there, or lead to a page
WITHOUT_TEST = (
    'Where are weights for segmentation and detection?',
    'Will it be better than Vim on my data?',
)


def run(script: str) -> str:
    """Run a script in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, '-c', script],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_every_answer_names_its_test() -> None:
    without = {
        question.splitlines()[0]
        for question in QUESTIONS
        if '<!-- tests/' not in question
    }
    assert without == {*WITHOUT_TEST}


@pytest.mark.parametrize('name', TESTS)
def test_a_test_that_the_page_names_is_there(name: str) -> None:
    path, _, function = name.partition('::')
    source = (ROOT / path).read_text()
    assert not function or f'def {function}(' in source


WITHOUT_MAMBA = """
import sys
for name in ('mamba_ssm', 'causal_conv1d', 'selective_scan_cuda'):
    sys.modules[name] = None  # an import of it fails
import torch
from mmscope.models import MambaScopeBackbone
arch = dict(embed_dims=32, num_layers=4)
net = MambaScopeBackbone(arch, out_indices=(3,), exit_head=None)
net(torch.rand(1, 3, 64, 96))[-1].mean().backward()
print(net.patch_embed.proj.weight.grad.isfinite().all().item())
"""


def test_nothing_of_mamba_is_needed() -> None:
    assert run(WITHOUT_MAMBA) == 'True'


WITHOUT_OPERATORS = """
import sys
sys.modules['mmcv._ext'] = None
import torch
from mmengine.registry import init_default_scope
from mmscope.engine.launch import load_config
from mmscope.models import MambaScopeBackbone, MambaScopeClassifier
from mmscope.registry import MODELS
cfg = load_config('{root}/configs/demo/mambascope_demo.py')
init_default_scope('mmseg')
net = MODELS.build(cfg.model).eval()
with torch.no_grad():
    (answer,) = net.test_step(dict(inputs=[torch.zeros(3, 64, 96)]))
shape = tuple(answer.pred_sem_seg.data.shape)
try:
    from mmscope.models import MambaScopeCascadeRCNN
except ImportError as error:
    print(shape, 'mmcv._ext' in str(error))
"""


@imports_no_operators
def test_segmentors_need_no_operators_of_mmcv() -> None:
    script = WITHOUT_OPERATORS.format(root=ROOT)
    assert run(script) == '(1, 64, 96) True'


SHORT = """
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks['checkpoint'] = dict(interval=1)
"""


def test_checkpoints_are_read_by_torch_as_it_is(
    train, tiny_config, tmp_path: Path
) -> None:
    train(tiny_config(SHORT), tmp_path / 'work')
    path = tmp_path / 'work/iter_1.pth'
    assert 'state_dict' in torch.load(path, weights_only=True)
