"""Keeps compiled programs on disk, so that the second run of a command starts at once."""

import os
from pathlib import Path


def enable_compilation_cache() -> None:
    """Points JAX at a cache folder of this user, unless JAX_COMPILATION_CACHE_DIR is set."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "tvt_jax" / "xla"))
