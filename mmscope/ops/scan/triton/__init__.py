"""The scan in Triton, for GPUs."""
