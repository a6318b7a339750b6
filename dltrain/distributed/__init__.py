"""Training in several processes: the process group, DDP and FSDP."""
