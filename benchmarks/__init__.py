"""Scan and backbone against other people's code; not part of the wheel."""
