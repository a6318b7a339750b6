"""HTTP service of a trained model: request parsing, batched predictions and web pages."""
