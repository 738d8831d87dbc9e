"""The method of the paper as pure functions on tensors."""

from .assembly import (
    FineLayout,
    build_fine_sequence,
    fine_layout,
    insert_cls,
    mixed_tokens_to_map,
    split_cls,
    split_fine_sequence,
    take_tokens,
    tokens_to_map,
)
from .confidence import (
    exits,
    multi_label_confidence,
    single_label_confidence,
)
from .importance import accumulate_importance, importance_score
from .losses import consistency_loss
from .routing import coarse_to_fine_index, num_selected, select_tokens

__all__ = [
    'FineLayout',
    'accumulate_importance',
    'build_fine_sequence',
    'coarse_to_fine_index',
    'consistency_loss',
    'exits',
    'fine_layout',
    'importance_score',
    'insert_cls',
    'mixed_tokens_to_map',
    'multi_label_confidence',
    'num_selected',
    'select_tokens',
    'single_label_confidence',
    'split_cls',
    'split_fine_sequence',
    'take_tokens',
    'tokens_to_map',
]
