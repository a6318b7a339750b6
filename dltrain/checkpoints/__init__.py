"""Files that survive a power cut, and the checkpoints made of them."""
