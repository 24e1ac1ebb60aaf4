"""Measurements that anyone can repeat: `python -m benchmarks.NAME` writes benchmarks/results/NAME.json."""
