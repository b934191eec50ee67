"""Training losses: arrays in, a scalar and its parts out. All in float32."""

import jax.numpy as jnp


def reconstruction_loss(output, target):
    """Mean absolute error of a reconstruction.

    Args:
      output, target: [B, H, W, 3] in [-1, 1].

    Returns: (scalar float32, {"l1": the same}).
    Source: paper equations 2 and 4, their first term.
    """
    l1 = jnp.mean(jnp.abs(output.astype(jnp.float32) - target.astype(jnp.float32)))
    return l1, {"l1": l1}
