"""Training: the loop that all stages share, and one file for each stage."""
