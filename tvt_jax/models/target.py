"""The device that a network is traced for, by which it picks its algorithms."""

import contextlib
import contextvars

import jax

_target = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(platform, compute_capability=""):
    """Context in which networks are traced for this platform instead of the default one.

    Args:
      platform: "cpu", "gpu", "tpu"; or "none" for a program that is only inspected: everything
        as it is defined.
      compute_capability: of an NVIDIA GPU, "8.0"; empty for other devices.
    """
    token = _target.set((platform, compute_capability))
    try:
        yield
    finally:
        _target.reset(token)


def target_device():
    """The device that is compiled for: (platform, compute capability of an NVIDIA GPU or "")."""
    if _target.get():
        return _target.get()
    platform = jax.default_backend()
    # AMD's GPUs have names such as "gfx90a".
    capability = getattr(jax.devices()[0], "compute_capability", "") if platform == "gpu" else ""
    return platform, capability if capability.replace(".", "").isdigit() else ""
