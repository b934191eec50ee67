"""What is wrong with an installation: versions, devices, caches, a model folder.

Each check yields findings; one with advice is a problem.
"""

import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.downloads import user_cache
from tvt_jax.errors import UserError
from tvt_jax.memory import free_memory
from tvt_jax.models.attention import suitable_backend
from tvt_jax.models.networks import abstract_network
from tvt_jax.parallel import preferred_dtype
from tvt_jax.text import load_tokenizer
from tvt_jax.weights.lpips import lpips_folder
from tvt_jax.weights.model_folder import check_is_model_folder, open_network, read_scheduler_config
from tvt_jax.weights.names import check_names_and_shapes, torch_tensors
from tvt_jax.weights.prompt_embeds import load_prompt_embeds
from tvt_jax.weights.tag_lists import read_tag_lists

# The pairs of requirements.txt, by the first Python that they are for.
TESTED = {
    (3, 11): {"jax": "0.10.2", "flax": "0.12.8"},
    (3, 12): {"jax": "0.12.0.1", "flax": "0.12.12"},
}
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
# What an image of 512 px asks of attention at full size: the tokens of VAE-D4's latents; number and
# width of the heads of the UNet and of VAE-D8.
_TOKENS, _UNET_HEADS, _VAE_D8_HEADS = 16_384, (5, 64), (1, 512)


class Finding(NamedTuple):
    """One line of the diagnosis.

    Attributes:
      text: what was found.
      advice: what to do about it; empty where all is well.
    """

    text: str
    advice: str = ""


def versions() -> Iterator[Finding]:
    """Python and the packages, against the pairs of jax and flax that are tested."""
    python = sys.version_info[:2]
    advice = "" if (3, 11) <= python <= (3, 13) else "install Python 3.11 to 3.13"
    yield Finding(f"Python {'.'.join(map(str, sys.version_info[:3]))}", advice)
    installed = {name: _version(name) for name in _SHOWN}
    yield Finding(", ".join(f"{name} {version}" for name, version in installed.items()))
    if missing := [name for name, version in installed.items() if version == "missing"]:
        text = f"{', '.join(missing)}: not installed by pip"
        yield Finding(text, "pip install -r requirements.txt")
        return
    tested = TESTED[max(first for first in TESTED if first <= max(python, min(TESTED)))]
    if other := {n: v for n, v in tested.items() if installed[n] != v}:
        pair = " and ".join(f"{name} {version}" for name, version in tested.items())
        text = ", ".join(f"{name} {installed[name]}" for name in other)
        yield Finding(f"{text}: not the tested pair ({pair})", "pip install -r requirements.txt")
    if installed["jax"].split(".")[:2] != installed["jaxlib"].split(".")[:2]:
        yield Finding("jax and jaxlib differ", f"pip install jaxlib=={installed['jax']}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def devices() -> Iterator[Finding]:
    """What there is to compute on, in which dtype, with which attention and how much memory."""
    try:
        found = jax.devices()
    except RuntimeError as error:  # a plugin that does not fit the driver, for example
        reason = str(error).splitlines()[0]
        yield Finding(f"JAX cannot use this machine: {reason}", "set JAX_PLATFORMS=cpu to go on")
        return
    yield Finding(f"{len(found)} x {found[0].device_kind} ({found[0].platform})")
    if found[0].platform == "cpu":
        for name, extra, exists in (
            ("an NVIDIA GPU", "cuda12", Path("/proc/driver/nvidia/version").is_file()),
            ("a TPU", "tpu", any(Path("/dev").glob("accel*"))),
        ):
            if exists:
                advice = f'pip install "jax[{extra}]"'
                yield Finding(f"this machine has {name}, which JAX does not use", advice)
    dtype = preferred_dtype()
    yield Finding(f"--dtype auto is {dtype}")
    attention = {
        name: suitable_backend((1, _TOKENS, *heads), _TOKENS, jnp.dtype(dtype))
        for name, heads in (("UNet", _UNET_HEADS), ("VAE-D8", _VAE_D8_HEADS))
    }
    yield Finding(
        f"attention over {_TOKENS:,} tokens: "
        + ", ".join(f"{backend} ({name})" for name, backend in attention.items())
    )
    free = free_memory()
    if free is None:
        yield Finding("free memory: not told by the platform")
    else:
        advice = "close other programs, or restore with --max-memory" if free < 2**30 else ""
        yield Finding(f"free memory: {free / 2**30:.1f} GiB", advice)


def caches() -> Iterator[Finding]:
    """The folders below the user's cache and their sizes, and whether LPIPS is there."""
    for folder in cache_folders():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield Finding(f"{folder}: {size / 2**20:.0f} MiB")
    if not lpips_folder("vgg16").is_dir():
        # No problem: upscaling does not need them.
        yield Finding("no weights of LPIPS, for training and evaluation; `make lpips` fetches them")


def cache_folders() -> list[Path]:
    """The folders of the user's cache: compiled programs, downloads, converted LPIPS."""
    return sorted(path for path in user_cache().glob("*") if path.is_dir())


def clear_caches() -> list[Path]:
    """Removes everything in the user's cache; all of it is made or downloaded again when needed."""
    folders = cache_folders()
    for folder in folders:
        shutil.rmtree(folder)
    return folders


def model_folder(model: Path) -> Iterator[Finding]:
    """Reads every file of a model folder: shapes against the configurations, finite values."""
    yield _checked("model_index.json", lambda: check_is_model_folder(model))
    parts = ["vae", "unet"]
    parts += [kind for kind in ("text_encoder", "tagger") if (model / kind).is_dir()]
    for kind in parts:
        yield _checked(kind, lambda kind=kind: _read_network(model / kind, kind))
    yield _checked("scheduler", lambda: read_scheduler_config(model))
    if "text_encoder" in parts:
        yield _checked("tokenizer", lambda: load_tokenizer(model / "tokenizer"))
    else:
        yield _checked("prompt_embeds", lambda: load_prompt_embeds(model))


def _checked(name: str, check: Callable[[], Any]) -> Finding:
    """What a check says, if it says anything, or the error that it raises."""
    try:
        said = check()
        return Finding(f"{name}: {said if isinstance(said, str) else 'complete'}")
    except UserError as error:
        return Finding(f"{name}: {error}", "convert, train or download the model again")


def _read_network(folder: Path, kind: str) -> str:
    """Reads a network of a model folder; returns what is in it."""
    config, tensors = open_network(folder, kind)
    expected = torch_tensors(abstract_network(kind, config)).values()
    check_names_and_shapes(
        {tensor.name: tensor.shape for tensor in expected},
        {name: tensors.shape(name) for name in tensors},
        tensors.source,
    )
    if kind == "tagger":
        read_tag_lists(folder, config.num_classes)
    dtypes, digest = set(), hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{tensors.source}: {name} has values that are not finite.")
        dtypes.add(array.dtype.name)
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return f"{len(tensors)} tensors, {', '.join(sorted(dtypes))}, SHA-256 {digest.hexdigest()[:16]}"
