"""The method of the paper as pure functions on tensors."""

from .assembly import (
    FineLayout,
    build_fine_sequence,
    fine_layout,
    fine_places,
    insert_cls,
    insert_evenly,
    merge_rows,
    run_means,
    split_cls,
    take_tokens,
    to_fine_grid,
    tokens_to_map,
)
from .confidence import (
    multi_label_confidence,
    should_exit,
    single_label_confidence,
)
from .importance import accumulate_importance, importance_score
from .losses import consistency_loss
from .padding import content_mask, valid_cells
from .routing import coarse_to_fine_index, num_selected, select_tokens

__all__ = [
    'FineLayout',
    'accumulate_importance',
    'build_fine_sequence',
    'coarse_to_fine_index',
    'consistency_loss',
    'content_mask',
    'fine_layout',
    'fine_places',
    'importance_score',
    'insert_cls',
    'insert_evenly',
    'merge_rows',
    'multi_label_confidence',
    'num_selected',
    'run_means',
    'select_tokens',
    'should_exit',
    'single_label_confidence',
    'split_cls',
    'take_tokens',
    'to_fine_grid',
    'tokens_to_map',
    'valid_cells',
]
