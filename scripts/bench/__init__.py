"""The parts of benchmark.py: what is trained, by whom, and how it is measured."""
