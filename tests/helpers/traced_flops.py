"""What a call costs, counted while it runs."""

from collections import Counter
from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from mmscope.utils.operator_flops import (
    PLAIN_FORMULAS,
    component_of,
    register_operators,
)


def traced_flops(run: Callable[[], object]) -> Counter:
    """Count the operators that a call runs on real tensors, by component.

    A convolution counts as 'conv', a product of matrices as 'projections'.
    """
    register_operators()
    counter = FlopCounterMode(display=False, custom_mapping=PLAIN_FORMULAS)
    with counter:
        run()
    total = Counter()
    for operator, twice in counter.get_flop_counts()['Global'].items():
        total[component_of(operator)] += twice // 2
    return total
