"""What MambaScope decides: which images are refined, and which cells."""

from math import nan

import torch
from torch import Tensor, nn

from mmscope.functional import num_selected, should_exit

from .cell_scores import CellScore
from .evidence import Evidence
from .exit_context import ExitContext, ExitSettings, exit_context
from .exit_head import ExitHead
from .refinement import Refinement, refine_alike, refine_by_need
from .scope_options import check_eta
from .scope_result import Decision


class ScopeDecisions:
    """Mixin of a backbone that judges its coarse answers.

    Attributes:
        training: Whether it is being trained, when every image is refined.
        eta: Confidence from which an image exits.
        tau: Score above which a cell is worth refining, or None.
        shares: Shares of coarse cells that can be refined, ascending.
        exit_head: Head on the class token, or None.
        exit_policy: Policy that judges in inference, or None for the head.
        exit_resolution: Grid on which exited images are decoded.
        cell_score: Score of the cells.
    """

    training: bool
    eta: float
    tau: float | None
    shares: tuple[float, ...]
    exit_head: ExitHead | None
    exit_policy: nn.Module | None
    exit_resolution: str
    cell_score: CellScore

    @property
    def exit_settings(self) -> ExitSettings:
        """What holds now in inference.

        It is the backbone's own, but for that of a :func:`exit_settings`
        block.
        """
        own = ExitSettings(
            self.eta,
            self.exit_policy,
            self.exit_resolution,
            self.shares,
            self.tau,
            self.cell_score,
        )
        return own._replace(**exit_context(self).settings)

    def _decide(
        self, evidence: Evidence, eta: float, context: ExitContext
    ) -> Decision:
        """Judge the coarse answers (Eq. 6-7), by the policy if there is one.

        Args:
            evidence: What there is to judge by, of B images.
            eta: Threshold.
            context: Policies that hold now.
        """
        policy = None if self.training else self.exit_settings.policy
        if self.exit_head is None:
            confidence = torch.full_like(evidence.coarse.importance[:, 0], nan)
        elif policy is None:
            confidence = self.exit_head.confidence(evidence.logits)
        else:
            confidence = policy(evidence)
        compared = {
            name: other(evidence) for name, other in context.compared.items()
        }
        exited = should_exit(confidence, eta)
        return Decision(confidence, exited, evidence, compared)

    def _choose_cells(
        self, decision: Decision, valid: Tensor | None, eta: float
    ) -> tuple[Decision, Refinement]:
        """Say how many cells of which images are refined.

        Args:
            decision: Judgement of the coarse answers.
            valid: Valid cells, (B, N_c), or None for all.
            eta: Threshold that they were judged at.

        Returns:
            The judgement, with the images that have no cell worth refining
            among those that exit, and the refinement.
        """
        evidence, settings = decision.evidence, self.exit_settings
        num_coarse = evidence.coarse.importance.shape[1]
        if self.training:
            shares, tau = self.shares, None
            if len(shares) > 1:
                drawn = torch.randint(len(shares), ()).item()
                shares = shares[drawn : drawn + 1]
        else:
            shares, tau = settings.shares, settings.tau
        nums = [num_selected(share, num_coarse) for share in shares]
        if tau is None or eta == 0:
            return decision, refine_alike(
                decision.exited,
                eta,
                nums[-1],
                lambda: settings.cell_score(evidence),
            )
        scores = settings.cell_score(evidence)
        # one that is not finite is no reason to exit
        worth = ~(scores <= tau)
        if valid is not None:
            worth &= valid
        wanted = worth.sum(dim=1)
        exited = decision.exited | (wanted == 0)
        refinement = refine_by_need(exited, wanted, nums, scores)
        return decision._replace(exited=exited), refinement

    def _resolve_eta(self, eta: float | None) -> float:
        if self.training:
            if self.shares[-1] == 0:
                raise ValueError(
                    'alpha=0 never runs the fine pass, so that its parts '
                    'would not be trained; train with alpha above 0'
                )
            return 1.0
        eta = self.exit_settings.eta if eta is None else eta
        eta = check_eta(eta, self.exit_head)
        # without a fine pass nothing can be refined
        return 0.0 if self.exit_settings.shares[-1] == 0 else eta
