"""Depthwise convolution of both directions."""
