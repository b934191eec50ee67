"""Open photographs from Debian packages: where training images come from without a data set."""
