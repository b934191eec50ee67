"""Photographs to batches, on the host CPU."""
