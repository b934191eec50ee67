"""Where this user's caches lie."""

import os
from pathlib import Path


def user_cache() -> Path:
    """The folder of this project below XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvt_jax"
