"""What the libraries' structures say, whichever line they are of."""

import pytest
from torch import nn

from mmscope.utils.structures import swaps_channels


@pytest.mark.parametrize(
    'name', ['_channel_conversion', 'channel_conversion', 'to_rgb']
)
def test_every_name_of_swapped_channels_is_known(name: str) -> None:
    """OneDL's and mmengine's, the classic mmseg's and mmpretrain's."""
    preprocessor = nn.Module()
    assert not swaps_channels(preprocessor)
    setattr(preprocessor, name, False)
    assert not swaps_channels(preprocessor)
    setattr(preprocessor, name, True)
    assert swaps_channels(preprocessor)
