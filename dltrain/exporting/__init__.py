"""A trained model as a file that needs no dltrain: ONNX, PyTorch's own, or safetensors."""
