"""Which cells are refined, by every score."""

import copy

import pytest
import torch
from detectors import build, cascade_config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmscope.models import (
    CellContrast,
    CellScore,
    LearnedCells,
    collect_passes,
    exit_settings,
)
from mmscope.registry import MODELS

PLAIN = ('Importance', 'CellContrast', 'Random', 'LearnedCells')
PIXELS = ('CoarseUncertainty', 'Oracle')
SCOPED = dict(
    type='mmscope.MambaScopeBackbone',
    arch=dict(embed_dims=32, num_layers=2, d_state=4),
    img_size=64,
    out_indices=(1,),
)


def score(name: str, **options: object) -> dict:
    return dict(type=f'mmscope.{name}', **options)


def varied(count: int, size: tuple[int, int] = (64, 96)) -> Tensor:
    scales = torch.linspace(0.2, 4, count).view(-1, 1, 1, 1)
    return scales * torch.randn(count, 3, *size)


def sample_of(mask: Tensor, path: str = '', shape=None) -> SegDataSample:
    size = tuple(mask.shape[-2:])
    return SegDataSample(
        gt_sem_seg=PixelData(data=mask.view(1, *size)),
        metainfo=dict(img_shape=shape or size, ori_shape=size, img_path=path),
    )


def refine(model, images, masks, **settings):
    """The record of a pass over images of one size."""
    data = dict(
        inputs=list(images),
        data_samples=[
            sample_of(mask, f'{index}.png') for index, mask in enumerate(masks)
        ],
    )
    with (
        torch.no_grad(),
        exit_settings(model, **settings),
        collect_passes(model) as passes,
    ):
        model.test_step(data)
    return passes[0]


@pytest.mark.parametrize(
    ('config', 'label'),
    [
        (score('Importance'), 'importance'),
        (score('Importance', largest_first=False), 'unimportance'),
        (score('CoarseUncertainty'), 'uncertainty'),
        (score('CellContrast'), 'contrast'),
        (score('Random'), 'chance'),
        (score('Oracle'), 'coarse errors'),
        (score('LearnedCells', in_channels=8), 'predicted change'),
        (
            score('LearnedCells', in_channels=8, target='error'),
            'predicted error',
        ),
    ],
)
def test_each_score_has_a_name_for_pictures(config, label) -> None:
    assert MODELS.build(config).label == label


def test_default_is_the_importance_of_the_paper(make_net) -> None:
    images = varied(3)
    by_default, named = make_net(), make_net(cell_score=score('Importance'))
    named.load_state_dict(by_default.state_dict())
    with torch.no_grad():
        one, other = by_default.scope(images), named.scope(images)
    assert torch.equal(one.selected, other.selected)
    assert torch.equal(one.features[-1], other.features[-1])
    best = one.importance.topk(3).indices.sort().values
    assert torch.equal(one.selected, best)


def test_least_important_cells_first(make_net) -> None:
    net = make_net(cell_score=score('Importance', largest_first=False))
    with torch.no_grad():
        result = net.scope(varied(2))
    worst = (-result.importance).topk(3).indices.sort().values
    assert torch.equal(result.selected, worst)


def test_contrast_refines_the_cell_with_texture(make_net) -> None:
    net = make_net(cell_score=score('CellContrast'), alpha=0.15)
    images = torch.full((1, 3, 64, 96), 3.0)
    images[:, :, 32:, 32:64] = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert net.scope(images).selected.tolist() == [[4]]


def test_chance_goes_by_path_and_seed(make_segmentor) -> None:
    model = make_segmentor(backbone__cell_score=score('Random', seed=3))
    images, masks = varied(3), torch.zeros(3, 64, 96, dtype=torch.long)
    together = refine(model, images, masks, eta=1.0).refinement.scores
    again = refine(model, images, masks, eta=1.0).refinement.scores
    assert torch.equal(together, again)
    assert len(together.unique()) == together.numel()
    other = refine(
        model, images, masks, eta=1.0, cell_score=score('Random', seed=4)
    )
    assert not torch.equal(together, other.refinement.scores)


def test_uncertainty_is_that_of_the_coarse_answer(make_segmentor) -> None:
    """By the logits that the model itself gives at eta = 0."""
    model = make_segmentor(backbone__cell_score=score('CoarseUncertainty'))
    images, masks = varied(2), torch.zeros(2, 64, 96, dtype=torch.long)
    data = dict(inputs=list(images), data_samples=list(map(sample_of, masks)))
    with torch.no_grad(), exit_settings(model, eta=0.0):
        answers = model.test_step(data)
    result = refine(model, images, masks, eta=1.0)
    for row, answer in zip(result.refinement.scores, answers, strict=True):
        doubt = 1 - answer.seg_logits.data.softmax(dim=0).amax(dim=0)
        cells = doubt.unflatten(0, (2, 32)).unflatten(2, (3, 32))
        expected = cells.mean(dim=(1, 3)).flatten()
        torch.testing.assert_close(row, expected)
    best = result.refinement.scores.topk(3).indices.sort().values
    assert torch.equal(result.selected, best)


@pytest.mark.parametrize('policy', [None, score('PixelConfidence')])
@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_one_coarse_decode_serves_policy_score_and_answer(
    make_segmentor, policy, eta
) -> None:
    model = make_segmentor(backbone__cell_score=score('CoarseUncertainty'))
    decoded = []
    model.neck.register_forward_hook(
        lambda neck, inputs, maps: decoded.append(len(maps[0]))
    )
    images, masks = varied(4), torch.zeros(4, 64, 96, dtype=torch.long)
    policy = score('ForcedExit', share=0.5, policy=policy)
    refine(model, images, masks, eta=eta, policy=policy)
    exited = {0.0: 4, 0.5: 2, 1.0: 0}[eta]
    assert decoded == [4] + ([4 - exited] if exited < 4 else [])


def test_oracle_finds_the_wrong_pixels(make_segmentor) -> None:
    """Ground truth equal to the coarse answer but for one cell of each."""
    model = make_segmentor(
        backbone__cell_score=score('Oracle'), backbone__alpha=0.15
    )
    images, masks = varied(2), torch.zeros(2, 64, 96, dtype=torch.long)
    data = dict(inputs=list(images), data_samples=list(map(sample_of, masks)))
    with torch.no_grad(), exit_settings(model, eta=0.0):
        answers = model.test_step(data)
    truth = torch.cat([one.pred_sem_seg.data for one in answers])
    truth[0, 32:, :32] = (truth[0, 32:, :32] + 1) % 5
    truth[1, :16, 64:] = (truth[1, :16, 64:] + 1) % 5
    truth[1, 40:, :] = 255  # counts nowhere
    result = refine(model, images, truth, eta=1.0)
    assert result.selected.tolist() == [[3], [2]]
    expected = torch.zeros(2, 6)
    expected[0, 3], expected[1, 2] = 1.0, 0.5
    torch.testing.assert_close(result.refinement.scores, expected)


def test_truth_is_brought_to_the_canvas(make_segmentor) -> None:
    """Masks of the test pipeline have the size of the file, not the input."""
    model = make_segmentor(backbone__cell_score=score('Oracle'))
    mask = torch.zeros(32, 40, dtype=torch.long)
    mask[16:, 20:] = 3
    sample = sample_of(mask, shape=(64, 80))
    labels = model.labels_shown(torch.zeros(1, 3, 64, 96), [sample])
    assert labels.shape == (1, 64, 96)
    assert (labels[0, 32:, 40:80] == 3).all()
    assert (labels[0, :32, :80] == 0).all()
    assert (labels[0, :, 80:] == -1).all()


def test_oracle_without_truth_says_what_is_missing(make_segmentor) -> None:
    model = make_segmentor(backbone__cell_score=score('Oracle')).eval()
    with pytest.raises(TypeError, match='ground truth.*LoadMask'):
        model.test_step(dict(inputs=list(varied(2))))


@pytest.mark.parametrize('name', PIXELS)
def test_scores_of_pixels_need_a_model_that_decodes(make_net, name) -> None:
    net = make_net(cell_score=score(name))
    with pytest.raises(TypeError, match=r'cell_score=.* does not decode'):
        net.scope(varied(2))
    with pytest.raises(ValueError, match='MambaScopeCascadeRCNN does not'):
        build(cascade_config(), backbone__cell_score=score(name))


@pytest.mark.parametrize('name', PLAIN + PIXELS)
def test_padding_is_never_refined(make_segmentor, name) -> None:
    model = make_segmentor(
        backbone__cell_score=score(name), backbone__alpha=0.5
    )
    small = torch.randn(3, 30, 60)
    masks = torch.zeros(1, 30, 60, dtype=torch.long)
    with (
        torch.no_grad(),
        exit_settings(model, eta=1.0),
        collect_passes(model) as passes,
    ):
        padded = torch.nn.functional.pad(small, (0, 36, 0, 34))
        data = sample_of(masks[0], 'a.png', shape=(30, 60))
        model.predict(padded[None], [data])
    # of 2 x 3 cells the first two show the image
    assert passes[0].selected[0].tolist()[:2] == [0, 1]


@pytest.mark.parametrize('target', ['error', 'change'])
def test_learned_cells_learn_beside_the_task(make_segmentor, target) -> None:
    model = make_segmentor(
        backbone__cell_score=score('LearnedCells', target=target)
    ).train()
    images = varied(2)
    data = [sample_of(torch.randint(0, 5, (64, 96))) for _ in images]
    losses = model.loss(images, data)
    head = model.backbone.cell_score.linear
    losses['loss_cells'].backward()
    others = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and 'cell_score' not in name
    ]
    assert head.weight.grad.abs().sum() > 0
    assert others == []


def test_learned_cells_come_to_find_errors(make_segmentor) -> None:
    """Errors lie where one feature is large: a linear layer can know."""
    torch.manual_seed(0)
    learned = LearnedCells(in_channels=8, target='error')
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    features = torch.randn(4, 6, 8)
    wrong = (features[..., 2] > 0).float()

    class Judged:
        coarse = type('Coarse', (), dict(features=features))
        cell_side = 4

        def errors(self, who: str) -> tuple[Tensor, Tensor]:
            pixels = wrong.unflatten(1, (2, 3))
            pixels = pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)
            return pixels, torch.ones(4, 1, 8, 12)

    record = type('Record', (), {})()
    record.decision = type('Decision', (), dict(evidence=Judged()))
    record.valid, record.importance = None, torch.zeros(4, 6)
    for _ in range(100):
        optimizer.zero_grad()
        loss = learned.loss(record)['loss_cells']
        loss.backward()
        optimizer.step()
    found = learned(Judged())
    assert ((found > 0.5) == wrong.bool()).all()


def test_change_teaches_by_refined_and_shown_cells(make_net) -> None:
    net = make_net(cell_score=score('LearnedCells'), alpha=0.5).train()
    images = varied(2)
    valid = torch.tensor([[[1, 1, 0], [1, 0, 0]]]).bool().expand(2, 2, 3)
    with torch.no_grad():
        result = net.scope(images, valid=valid)
    before = net.cell_score.loss(result)['loss_cells']
    coarse = result.coarse.features.clone()
    coarse[:, [2, 4, 5]] += 100.0  # not shown
    stage = result.coarse._replace(features=coarse)
    evidence = copy.copy(result.decision.evidence)
    evidence.coarse = stage
    decision = result.decision._replace(evidence=evidence)
    changed = copy.copy(result)
    object.__setattr__(changed, 'decision', decision)
    assert torch.equal(net.cell_score.loss(changed)['loss_cells'], before)


def test_score_of_your_own(make_net) -> None:
    class LastCells(CellScore):
        def forward(self, evidence):
            cells = evidence.coarse.importance
            return torch.arange(cells.shape[1]).expand_as(cells).float()

    MODELS.register_module(module=LastCells)
    try:
        net = make_net(cell_score=score('LastCells'))
        with torch.no_grad():
            assert net.scope(varied(1)).selected.tolist() == [[3, 4, 5]]
    finally:
        MODELS.module_dict.pop('LastCells')


def test_settings_change_the_score_for_a_block(make_net) -> None:
    net = make_net()
    images = varied(2)
    with torch.no_grad():
        own = net.scope(images).selected
        with exit_settings(net, cell_score=score('CellContrast'), alpha=1.0):
            assert net.scope(images).selected.shape == (2, 6)
        with exit_settings(net, cell_score=CellContrast()):
            by_contrast = net.scope(images).selected
        assert torch.equal(net.scope(images).selected, own)
    assert not torch.equal(own, by_contrast)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='mmscope.PixelConfidence'), 'config of a CellScore'),
        (dict(mode='x'), 'config of a CellScore'),
        (score('LearnedCells', target='x'), "target must .* got 'x'"),
    ],
)
def test_bad_scores(make_net, config, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_net(cell_score=config)


@pytest.mark.parametrize(
    'config',
    [
        'mmscope.Importance',
        score('Nope'),
        score('MeanPositive'),
        dict(largest_first=True),
        score('PixelConfidence'),
    ],
)
def test_what_is_no_score_is_refused_with_the_choices(config) -> None:
    with pytest.raises(
        ValueError, match='dict.type=.*CoarseUncertainty.*got'
    ) as caught:
        MODELS.build(dict(SCOPED, cell_score=config))
    assert repr(config) in str(caught.value)
