"""Keeps compiled programs on disk, so that the second run of a command starts at once."""

import os

from tvt_jax.user_cache import user_cache


def enable_compilation_cache() -> None:
    """Points JAX at a cache folder of this user, unless JAX_COMPILATION_CACHE_DIR is set."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "xla"))
