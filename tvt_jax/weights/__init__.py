"""Parameter trees in files: tensor files, names, adapters, model folders."""
