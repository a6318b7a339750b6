"""Search over a config's values, with Optuna underneath."""
