"""Faults, one after the other, held against what is documented: ``python -m benchmarks.faults``."""
