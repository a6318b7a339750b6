"""Contracts that every package shares: registry, errors, data specs, batches, protocols."""
