"""RMSNorm of the residual stream."""
