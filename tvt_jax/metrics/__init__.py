"""Image quality metrics, on arrays."""
