"""MambaScope: a coarse pass, early exit, and a selective fine pass."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmscope.functional import valid_cells
from mmscope.registry import MODELS

from .cell_scores import CellScore, score_class
from .encoder import VimEncoder
from .evidence import Evidence
from .exit_context import (
    exit_context,
    next_record,
)
from .layers import ScoreMetric
from .reuse import FeatureReuse
from .scope_decisions import ScopeDecisions
from .scope_options import (
    ScopeNumbers,
    check_cls_type,
    check_context,
    check_options,
    check_policy,
    check_reuse_cls,
    check_valid,
    resolve_score_layers,
)
from .scope_result import ScopeResult
from .scope_stages import ScopeStages
from .stages import join_stages


@MODELS.register_module()
class MambaScopeBackbone(
    ScopeNumbers, ScopeDecisions, ScopeStages, VimEncoder
):
    """Coarse-to-fine scoping Vision Mamba as a backbone.

    A pass over the half-size image answers simple images. For the others,
    the share ``alpha`` of its cells with the highest scores is embedded at
    full resolution and the same encoder runs once more over these and the
    coarse rest. In training every image takes both passes.

    The paper refines by importance, the same share everywhere. Beyond it,
    ``cell_score`` takes other scores, and with several shares and ``tau``
    each image gets the smallest share that covers its cells with a score
    above ``tau``; one without such cells exits.

    As the backbone of an unmodified mmseg or mmdet model, set
    ``exit_head=None`` and ``eta=1`` to train: their losses do not supervise
    an exit head. ``mmscope.MambaScopeSegmentor`` does.

    Args:
        arch: 'tiny', 'small', 'base', or a dict with ``embed_dims`` and
            ``num_layers`` and optionally ``d_state``, ``expand``, ``d_conv``.
        img_size: Image size that position embeddings are stored for.
        patch_size: Side of a patch P in pixels.
        in_channels: Image channels.
        out_indices: Blocks whose maps are returned.
        out_type: 'featmap' returns maps (B, C, H / P, W / P), each through an
            RMSNorm of its own; 'cls_token' the class token after the last
            block and the final norm alone, (B, C), for classification.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        scan_backend: 'auto' or a name of :func:`mmscope.ops.scan_backends`.
        init_cfg: mmengine's; of type 'Pretrained' it takes checkpoints of
            ours and of the official Vim, by file or address, and
            ``weights='ema'`` for averaged ones.
        alpha: Share of coarse cells to refine; 1 refines all, 0 never runs
            the fine pass. Or several, ascending: training draws one of them
            for each batch, inference takes the largest, or what ``tau`` asks.
        beta: Smoothing of importance over layers, in [0, 1) (Eq. 12).
        eta: Confidence from which an image exits; 0 always, 1 never.
            Training ignores it.
        exit_head: Config of a head on the class token, or None (then ``eta``
            must be 1).
        exit_policy: Config of an :class:`ExitPolicy` whose confidence decides
            in inference; None leaves it to the exit head.
        cell_score: Config of a :class:`CellScore` that says which cells are
            refined; None for the paper's :class:`Importance`.
        tau: Score above which a cell is worth refining, in inference; None
            refines as many cells as ``alpha`` allows.
        importance: Metric of :func:`mmscope.functional.importance_score`, or a
            dict of its ``metric``, ``direction`` and ``num_top``.
        score_layers: Blocks, counted from 0, that score tokens; by default
            every second of the latter half.
        reuse: 'mlp', 'linear' or 'none' (Eq. 17-19).
        reuse_cls: Whether the class token is reused, too.
        unselected: Tokens of the cells that are not refined: their coarse
            input 'embedding' (as in CF-ViT) or output 'feature', or 'drop'
            for none: these cells keep their coarse features in the maps.
        num_context: Number of tokens that stand for dropped cells: the means
            of as many runs of their coarse embeddings.
        cls_position: 'first', 'middle' or 'last' of the refined tokens.
        token_order: 'important_first', 'important_last' or 'raster'.
        exit_resolution: 'fine', or 'coarse' to have mmscope's segmentor and
            detector decode exited images at stride 2P.
        separate_coarse_pos_embed: Whether the coarse grid has position
            embeddings of its own, or resampled fine ones.
        with_cp: Recompute blocks in the backward pass to save memory.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n the first n
            blocks as well.
        num_registers: Number of learned tokens spread through both sequences.
        cuda_graphs: Whether blocks are replayed as CUDA graphs in inference,
            for sizes that come again: on fast GPUs several times as fast.
        pos_embed_fit: How position embeddings are fitted to other sizes:
            'resample' stretches them, 'extend' leaves each where it is.

    Raises:
        ValueError: an argument is none of its choices or out of its range.

    Examples:
        >>> head = dict(type='mmscope.MultiLabelExitHead', num_classes=150)
        >>> net = MambaScopeBackbone('tiny', eta=0.7, exit_head=head).eval()
        >>> result = net.scope(torch.rand(2, 3, 64, 96))
        >>> result.features[0].shape, result.exited.shape
        (torch.Size([2, 192, 4, 6]), torch.Size([2]))
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: Sequence[int] = (5, 11, 17, 23),
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        scan_backend: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
        alpha: float | Sequence[float] = 0.8,
        beta: float = 0.99,
        eta: float = 1.0,
        exit_head: dict | None = dict(  # noqa: B006 - never written to
            type='mmscope.MultiLabelExitHead', num_classes=150
        ),
        exit_policy: dict | None = None,
        cell_score: dict | None = None,
        tau: float | None = None,
        importance: str | dict = 'max_softplus',
        score_layers: Sequence[int] | None = None,
        reuse: str = 'mlp',
        reuse_cls: bool = False,
        unselected: str = 'embedding',
        num_context: int = 0,
        cls_position: str = 'middle',
        token_order: str = 'important_first',
        exit_resolution: str = 'fine',
        separate_coarse_pos_embed: bool = True,
        with_cp: bool = False,
        frozen_stages: int = -1,
        num_registers: int = 0,
        cuda_graphs: bool = False,
        pos_embed_fit: str = 'resample',
    ) -> None:
        check_options(
            out_type=out_type,
            reuse=reuse,
            unselected=unselected,
            cls_position=cls_position,
            token_order=token_order,
            exit_resolution=exit_resolution,
        )
        check_policy(exit_policy, exit_head)
        check_reuse_cls(reuse_cls, reuse)
        check_context(num_context, unselected)
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=out_indices,
            level_norms=out_type == 'featmap',
            final_norm=(
                exit_head is not None
                or out_type == 'cls_token'
                or reuse != 'none'
                or unselected == 'feature'
                or score_class(cell_score).reads_features
            ),
            drop_path_rate=drop_path_rate,
            scan_backend=scan_backend,
            size_divisor=2 * patch_size,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
            num_registers=num_registers,
            cuda_graphs=cuda_graphs,
            pos_embed_fit=pos_embed_fit,
        )
        check_cls_type(out_type, self.out_indices, self.num_layers)
        self.out_type = out_type
        self.score_metric = ScoreMetric.parse(importance)
        self.score_layers = resolve_score_layers(score_layers, self.num_layers)
        self.reuse_cls = reuse_cls
        self.unselected, self.num_context = unselected, num_context
        self.cls_position, self.token_order = cls_position, token_order
        self.exit_resolution = exit_resolution

        self._add_parts(reuse, exit_head, exit_policy, cell_score)
        self.alpha, self.beta, self.eta, self.tau = alpha, beta, eta, tau
        self._add_coarse_pos_embed(separate_coarse_pos_embed)
        self.reset_parameters()
        self._freeze_unread()

    def _add_parts(
        self,
        reuse: str,
        exit_head: dict | None,
        exit_policy: dict | None,
        cell_score: dict | None,
    ) -> None:
        """Build what there is beside the encoder; the arguments' configs."""
        dims = self.embed_dims
        self.reuse = FeatureReuse(dims, reuse) if reuse != 'none' else None
        self.exit_head = self.exit_policy = None
        if exit_head is not None:
            self.exit_head = MODELS.build(dict(exit_head, in_channels=dims))
        kind = score_class(cell_score)
        score = dict(cell_score or {}, type=kind)
        if kind.reads_features:
            score['in_channels'] = dims
        self.cell_score: CellScore = MODELS.build(score)
        if exit_policy is not None:
            self.exit_policy = MODELS.build(exit_policy)

    def _add_coarse_pos_embed(self, separate: bool) -> None:
        """Make position embeddings of the coarse grid, or share the fine."""
        if not separate:
            self.coarse_cls_pos_embed = self.coarse_pos_embed = None
            return
        height, width = self.pos_grids['pos_embed']
        self.coarse_cls_pos_embed = nn.Parameter(
            torch.zeros(1, 1, self.embed_dims)
        )
        self.add_pos_embed('coarse_pos_embed', (height // 2, width // 2))

    def _freeze_unread(self) -> None:
        """Leave no trainable parameter without gradient, as DDP asks.

        The coarse pass is read by its output, by the maps of cells that are
        not refined, or by its inputs alone.
        """
        rest = min(self.shares) < 1
        output = (
            self.exit_head is not None
            or self.reuse is not None
            or (self.unselected == 'feature' and rest)
        )
        dropped = self.unselected == 'drop'
        maps = dropped and rest and self.out_type == 'featmap'
        inputs = rest and (not dropped or self.num_context > 0)
        to_the_end = output or self.out_type == 'cls_token'
        self.freeze(
            self.num_layers - 1 if to_the_end else self.out_indices[-1]
        )
        unread = [] if to_the_end else [self.norm_f]
        if not (output or maps):
            unread.append(self.coarse_cls_pos_embed)
        if not (output or maps or inputs):
            unread.append(self.coarse_pos_embed)
        for parameter in unread:
            if parameter is not None:
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features of the pass that each image ends in.

        Args:
            x: Images, (B, 3, H, W).

        Returns:
            One map (B, C, H / P, W / P) for each of ``out_indices``, or the
            class token (B, C) in a tuple of one.
        """
        learns = any(True for _ in self.cell_score.parameters())
        if self.training and (self.exit_head is not None or learns):
            # the logger shows a warning once
            MMLogger.get_current_instance().warning(
                'the exit head and learned cell scores get no gradient from '
                'this model: train with exit_head=None and eta=1, or use '
                "type='mmscope.MambaScopeSegmentor', which supervises them"
            )
        result = self.scope(x)
        if self.out_type == 'cls_token':
            return (result.merged_cls(),)
        return result.merged_maps()

    def scope(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        eta: float | None = None,
    ) -> ScopeResult:
        """Run the coarse pass, and the fine pass where it is needed.

        Args:
            x: Images, (B, 3, H, W).
            valid: True where a coarse cell shows some of the image,
                (B, ceil(H / 2P), ceil(W / 2P)); by default everywhere, or
                what the model around says of its images.
            eta: Threshold instead of the one that holds. In training every
                image is refined, whatever it is.

        Returns:
            The record of the pass: features and decisions.

        Raises:
            ValueError: ``x`` is no batch of images, ``valid`` is of another
                shape, ``eta`` out of range or without exit head, or
                ``alpha`` is 0 in training.
            TypeError: a policy or score decodes pixels and nothing around
                does that.
        """
        context = exit_context(self)
        if context.replayed is None:
            result = self.fine(self.coarse(x, valid, eta))
        else:
            result = next_record(context.replayed, x)
        for records in context.records:
            records.append(result)
        return result

    def coarse(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        eta: float | None = None,
    ) -> ScopeResult:
        """Run the coarse pass and decide which images to refine.

        Args:
            x: Images, (B, 3, H, W).
            valid: Valid coarse cells, as for :meth:`scope`.
            eta: Threshold instead of the one that holds.

        Returns:
            The record of a pass, without its fine stage.
        """
        self.check_images(x)
        eta, context = self._resolve_eta(eta), exit_context(self)
        size, x = x.shape[2:], self.pad(x)
        content = context.content
        if valid is None and content is not None:
            valid = valid_cells(content, 2 * self.patch_size)
        if valid is not None:
            valid = check_valid(valid, x, 2 * self.patch_size)
        coarse = self._encode_coarse(x)
        if content is None:
            content = x.new_ones(1, 1, 1, 1).expand(x.shape[0], 1, *size)
        logits = None if self.exit_head is None else self.exit_head(coarse.cls)
        evidence = Evidence(
            coarse,
            logits,
            x,
            content,
            2 * self.patch_size,
            context.paths,
            context.decoder,
            context.judge,
        )
        decision = self._decide(evidence, eta, context)
        decision, refinement = self._choose_cells(decision, valid, eta)
        return ScopeResult(x, valid, coarse, decision, refinement)

    def fine(self, result: ScopeResult) -> ScopeResult:
        """Run the fine pass over the hard images of a coarse one.

        Args:
            result: Record of :meth:`coarse`.

        Returns:
            The same record with its fine stage.
        """
        groups = result.refinement.groups
        stages = []
        for num, index in groups:
            images, coarse, scores, valid = result.to_refine(index)
            stages.append(
                self._encode_fine(images, coarse, scores, num, valid)
            )
        if not stages:
            return result
        fine = stages[0]
        if len(stages) > 1:
            fine = join_stages(stages, [index for _, index in groups])
        return replace(result, fine=fine)
