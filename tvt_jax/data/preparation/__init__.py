"""Folders of images to shards."""
