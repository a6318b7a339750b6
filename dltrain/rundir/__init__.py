"""The run directory and what it records."""
