"""Cost, speed and memory of the networks, the data pipeline and the training step."""
