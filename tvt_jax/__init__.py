"""Real-world image super-resolution that keeps fine structure: TVT in JAX and Flax NNX.

The public names are loaded when they are first used, so importing the package does not import jax.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Encoding": "tvt_jax.images.formats",
    "ExportedUpscaler": "tvt_jax.inference.exported",
    "RestorationOptions": "tvt_jax.inference.options",
    "Tagger": "tvt_jax.inference.tagging",
    "Upscaler": "tvt_jax.inference.upscaler",
    "UserError": "tvt_jax.errors",
    "load_tagger": "tvt_jax.inference.tagging",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
