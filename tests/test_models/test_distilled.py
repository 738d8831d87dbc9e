"""A classifier with a teacher: its loss, and checkpoints without it."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmscope.models import DistilledClassifier
from mmscope.utils.checkpoint import CheckpointError

CLASSES = 5
MERGING = dict(type='mmscope.TokenMerging', num_merged=20, blocks=(1,))


def classifier(kind: str = 'ImageClassifier', **options) -> dict:
    return dict(
        dict(
            type=kind,
            backbone=dict(
                type='mmscope.VisionMambaBackbone',
                arch=dict(embed_dims=32, num_layers=2, d_state=4),
                img_size=64,
                out_indices=(1,),
                out_type='cls_token',
            ),
            head=dict(
                type='LinearClsHead', num_classes=CLASSES, in_channels=32
            ),
        ),
        **options,
    )


def make(
    teacher: dict | None = None, checkpoint: str = '', **options
) -> DistilledClassifier:
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    student = classifier(
        'mmscope.DistilledClassifier',
        teacher=teacher or classifier(),
        teacher_checkpoint=checkpoint,
        **options,
    )
    student['backbone']['token_reduction'] = MERGING
    return MODELS.build(student)


def batch() -> tuple[torch.Tensor, list[DataSample]]:
    torch.manual_seed(1)
    samples = [DataSample().set_gt_label(label) for label in (0, 3, 1)]
    return torch.randn(3, 3, 64, 64), samples


def test_the_loss_is_the_heads_and_the_divergence_from_the_teacher():
    model = make(distill_weight=0.3).train()
    x, samples = batch()
    losses = model.loss(x, samples)
    student, teacher = model(x), model.teacher(x)
    labels = torch.tensor([0, 3, 1])
    expected = F.cross_entropy(student, labels)
    torch.testing.assert_close(losses['loss'], expected)
    p, q = teacher.softmax(1), student.softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses['loss_distill'], 0.3 * divergence)


def test_the_teacher_stays_as_it_is():
    model = make().train()
    assert not model.teacher.training
    sum(model.loss(*batch()).values()).backward()
    for name, parameter in model.named_parameters():
        learns = not name.startswith('teacher.')
        assert (parameter.grad is not None) == learns, name


def test_checkpoints_are_those_of_the_plain_classifier():
    model = make()
    state = model.state_dict()
    assert not [key for key in state if 'teacher' in key]
    plain = MODELS.build(classifier())
    plain.load_state_dict(state)
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    # grids are whole numbers, and stay
    other = {k: v + v.is_floating_point() for k, v in state.items()}
    model.load_state_dict(other)
    for key, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[key])
    del other['head.fc.bias']
    with pytest.raises(RuntimeError, match=r'Missing.*head\.fc\.bias'):
        model.load_state_dict(other)


def test_dynamic_tokens_learn_from_the_teachers_tokens():
    """The losses of DyVM: shares, and tokens that are kept."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    dynamic = classifier(
        'mmscope.DistilledClassifier',
        teacher=classifier(),
        teacher_checkpoint='',
        token_weight=0.5,
    )
    dynamic['backbone']['token_reduction'] = dict(
        type='mmscope.DynamicTokens', blocks=(1,)
    )
    model = MODELS.build(dynamic).train()
    # the student's own weights are those of the teacher, but for the gates
    model.load_state_dict(model.teacher.state_dict(), strict=False)
    x, samples = batch()
    with torch.no_grad():
        # every token is kept, and every direction runs
        predictor, *_ = model.backbone.token_reduction.predictors
        predictor.outer[-1].weight.zero_()
        predictor.outer[-1].bias.copy_(torch.tensor([1e6, 0]))
        for gate in model.backbone.token_reduction.gates:
            gate.bias.fill_(1e6)
    losses = model.loss(x, samples)
    assert losses['loss_tokens_distill'].item() == pytest.approx(0, abs=1e-10)
    assert losses['loss_distill'].item() == pytest.approx(0, abs=1e-6)
    assert losses['loss_tokens'].item() == pytest.approx(10 * 0.3**2)
    assert losses['loss_directions'].item() == pytest.approx(10 * 0.2**2)
    with torch.no_grad():
        model.backbone.norm_f.weight.mul_(2)
    doubled = model.loss(x, samples)['loss_tokens_distill']
    _, tokens = model._teach(x)
    expected = 0.5 * tokens.square().mean()
    torch.testing.assert_close(doubled, expected, rtol=1e-4, atol=0)


def test_the_teachers_weights_are_read_when_training_begins(tmp_path):
    init_default_scope('mmpretrain')
    torch.manual_seed(5)
    trained = MODELS.build(classifier())
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=trained.state_dict()), path)
    model = make(checkpoint=str(path))
    model.init_weights()
    for key, value in trained.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[key], value)
    learner = model.backbone.layers[0].mixer.in_proj.weight
    teacher = model.teacher.backbone.layers[0].mixer.in_proj.weight
    assert not torch.equal(learner, teacher)
    with pytest.raises(FileNotFoundError, match='none.pth'):
        make(checkpoint='none.pth').init_weights()
    other = classifier()
    other['backbone']['arch']['embed_dims'] = 16
    other['head']['in_channels'] = 16
    with pytest.raises(CheckpointError, match='not of the model of the teach'):
        make(other, checkpoint=str(path)).init_weights()


def test_tokens_are_compared_where_there_are_any_to_compare():
    for reduction in (MERGING, None):
        student = classifier(
            'mmscope.DistilledClassifier',
            teacher=classifier(),
            teacher_checkpoint='',
            token_weight=0.5,
        )
        student['backbone']['token_reduction'] = reduction
        with pytest.raises(ValueError, match='token_weight=0.5 .*DynamicTok'):
            MODELS.build(student)


def test_what_does_not_fit_is_named():
    teacher = classifier()
    teacher['head']['num_classes'] = 7
    with pytest.raises(ValueError, match='num_classes=7 must equal .*=5'):
        make(teacher)
    with pytest.raises(ValueError, match='distill_weight .* got -1'):
        make(distill_weight=-1)
