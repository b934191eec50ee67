"""Measurements: complexity of the networks, quality of images."""
