"""Architectures of Vision Mamba."""

ARCH_ZOO = {
    'tiny': dict(embed_dims=192, num_layers=24),
    'small': dict(embed_dims=384, num_layers=24),
    'base': dict(embed_dims=768, num_layers=24),
}
ARCH_KEYS = {'embed_dims', 'num_layers', 'd_state', 'expand', 'd_conv'}


def resolve_arch(arch: str | dict) -> dict:
    """Return the settings of an architecture.

    Args:
        arch: 'tiny', 'small', 'base', or a dict with ``embed_dims`` and
            ``num_layers`` and optionally ``d_state``, ``expand``, ``d_conv``.

    Raises:
        ValueError: the name is unknown, or the dict lacks or has other keys.
    """
    if isinstance(arch, str):
        if arch not in ARCH_ZOO:
            raise ValueError(
                f'arch must be one of {sorted(ARCH_ZOO)} or a dict, '
                f'got {arch!r}'
            )
        return dict(ARCH_ZOO[arch])
    keys = set(arch)
    if not {'embed_dims', 'num_layers'} <= keys <= ARCH_KEYS:
        raise ValueError(
            'an arch dict needs embed_dims and num_layers and may have '
            f'd_state, expand and d_conv, got the keys {sorted(keys)}'
        )
    return dict(arch)
