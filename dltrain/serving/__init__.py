"""A trained model over HTTP: requests read, put together into batches, and answered."""
