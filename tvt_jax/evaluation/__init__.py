"""Measurements: complexity, and later quality."""
