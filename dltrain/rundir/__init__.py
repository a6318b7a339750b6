"""The run directory, and what it records of a run."""
