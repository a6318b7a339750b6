"""What a finished run has to show, as one HTML page that needs nothing else."""
