"""Selective scan: entry, reference, and the backends."""
