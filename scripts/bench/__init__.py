"""Modules of benchmark.py and gpu_check.py: workloads, frameworks and measurements."""
