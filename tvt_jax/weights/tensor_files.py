"""Weight files: safetensors in and out, and pickles read without running their code."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file, check_is_file, read_json

# Trainers leave objects of these packages in their checkpoints. They are read as inert stand-ins;
# anything else that a pickle wants to import is refused.
_INERT_PACKAGES = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "numpy")


class Tensors(Mapping[str, np.ndarray]):
    """A state dict that reads each tensor on access.

    Attributes:
      source: what to call it in an error message.
    """

    def __init__(
        self,
        source: str,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[str], np.ndarray],
    ):
        self.source = source
        self._shapes = dict(shapes)
        self._read = read

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor as a numpy array (bfloat16 through ml_dtypes)."""
        if name not in self._shapes:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, known without reading it."""
        return self._shapes[name]

    def renamed(self, new_name: Callable[[str], str | None]) -> "Tensors":
        """Returns the same tensors under other names; those renamed to None are left out."""
        old = {new: name for name in self if (new := new_name(name)) is not None}
        return Tensors(
            self.source,
            {new: self._shapes[name] for new, name in old.items()},
            lambda name: self._read(old[name]),
        )

    def updated(self, arrays: Mapping[str, np.ndarray], source: str | None = None) -> "Tensors":
        """Returns the same tensors with others added, or in their place, as `dict.update`."""
        return Tensors(
            source or self.source,
            self._shapes | {name: tuple(array.shape) for name, array in arrays.items()},
            lambda name: arrays[name] if name in arrays else self._read(name),
        )


def open_tensors(path: Path) -> Tensors:
    """Opens one weight file that holds a plain state dict, of any supported format.

    Raises:
      UserError: the file is missing, damaged, unsafe, or holds something else than tensors.
    """
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict.")
    return torch_tensors_as_numpy(content, str(path))


def open_network_tensors(folder: Path, stem: str) -> Tensors:
    """Opens the weights of a network's folder, sharded or not, with or without variant suffix.

    Args:
      folder: for example `unet/`.
      stem: file name without suffixes: `diffusion_pytorch_model` (diffusers) or `model`
        (transformers). transformers' `.bin` files are called `pytorch_model` and found as well.

    safetensors are preferred to pickles, and files without a variant (".fp16") to those with one.

    Raises:
      UserError: there is no weight file, a shard is missing or a file is damaged.
    """
    names = sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    stems = f"(?:{re.escape(stem)}|pytorch_model)"
    variant = r"(?:\.[A-Za-z0-9_]+)?"
    for suffix in ("safetensors", "bin"):
        patterns = (
            rf"{stems}\.{suffix}",
            rf"{stems}\.{suffix}\.index\.json",
            rf"{stems}{variant}\.{suffix}",
            rf"{stems}{variant}\.{suffix}\.index{variant}\.json",
        )
        for pattern in patterns:
            found = [name for name in names if re.fullmatch(pattern, name)]
            if found and found[0].endswith(".json"):
                return _open_sharded(folder, found[0])
            if found:
                return open_tensors(folder / found[0])
    raise UserError(
        f"{folder} has no weights: expected {stem}.safetensors or .bin "
        f"(found {', '.join(names) or 'nothing'})."
    )


def _open_sharded(folder: Path, index_name: str) -> Tensors:
    index = read_json(folder / index_name)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{folder / index_name} has no weight_map; download the folder again.")
    lost = sorted(name for name in set(weight_map.values()) if not (folder / name).is_file())
    if lost:
        raise UserError(f"{folder} lacks {', '.join(lost)}, which {index_name} lists.")
    shards = {name: open_tensors(folder / name) for name in sorted(set(weight_map.values()))}
    listed = {(shard, key) for key, shard in weight_map.items()}
    held = {(shard, key) for shard, tensors in shards.items() for key in tensors}
    if listed != held:
        wrong = ", ".join(sorted(key for _, key in listed ^ held))
        raise UserError(f"{folder / index_name} and its shards disagree about: {wrong}.")
    return Tensors(
        str(folder),
        {key: shards[shard].shape(key) for key, shard in weight_map.items()},
        lambda key: shards[weight_map[key]][key],
    )


def _open_safetensors(path: Path) -> Tensors:
    check_is_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}); download it again."
        ) from error

    version = _version(path)

    def read(name: str) -> np.ndarray:
        # Opened anew: what was read through one mapping counts as this process's memory.
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                tensor = file.get_tensor(name)
            unchanged = _version(path) == version
        except (safetensors.SafetensorError, OSError):
            unchanged = False
        if not unchanged:
            raise UserError(f"{path} was changed while it was read; try again.")
        return tensor

    return Tensors(str(path), shapes, read)


def _version(path: Path) -> tuple[int, int, int]:
    """Differs when a file was written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_metadata(path: Path) -> dict[str, str]:
    """The free text entries of a safetensors file that `open_tensors` has opened."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def save_tensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file; an older one in its place is replaced.

    Args:
      path: its folder is made if needed.
      arrays: any layout in memory.
      metadata: free text entries.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            safetensors.numpy.save_file(arrays, temporary, {"format": "pt", **(metadata or {})})
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}.") from error
        # safetensors creates files that only their owner can read.
        temporary.chmod(mode)


def load_pickle(path: Path) -> Any:
    """Reads a PyTorch checkpoint, memory-mapped, without running code from it.

    Raises:
      UserError: PyTorch is not installed, the file is missing or damaged, or it wants to import
        anything but tensors (such a file could run any program).
    """
    check_is_file(path)
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path.name} needs PyTorch: pip install 'tvt-jax[convert]' "
            "(or torch), then convert again."
        ) from error
    # Only the zip format, torch's since 1.6, can be memory-mapped.
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with warnings.catch_warnings(), _inert_globals(path, zipped):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises many undocumented errors
        if "weights only load failed" in str(error).lower() and "nsupported" in str(error):
            wanted = re.search(r"GLOBAL (\S+)|class (\S+)", str(error))
            what = f" (it imports {wanted[1] or wanted[2]})" if wanted else ""
            raise UserError(
                f"{path} is refused: it is a pickle that could run code{what}. "
                "Get it as safetensors, or from a source that stores tensors only."
            ) from error
        raise UserError(
            f"{path} is not a readable PyTorch checkpoint; it may be truncated, download it again."
        ) from error


@contextlib.contextmanager
def _inert_globals(path: Path, zipped: bool):
    """Lets the unpickler read classes of trainer packages as inert stand-ins."""
    import torch

    def stand_in(name: str):
        module, _, attribute = name.rpartition(".")
        return (type(attribute, (_Inert,), {"__module__": module}), name)

    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    allowed = [stand_in(n) for n in names if n.split(".")[0] in _INERT_PACKAGES]
    with torch.serialization.safe_globals(allowed):
        yield


class _Inert:
    """Accepts any arguments and any state, and ignores them."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def torch_tensors_as_numpy(tensors: Mapping[str, Any], source: str) -> Tensors:
    """Wraps a dict of PyTorch tensors; arrays share the tensors' (memory-mapped) data.

    Raises:
      UserError: a value is not a tensor.
    """
    other = [str(k) for k, v in tensors.items() if not hasattr(v, "detach")]
    if other:
        raise UserError(f"{source} holds more than tensors: {', '.join(other[:5])}.")

    def read(name: str) -> np.ndarray:
        import torch

        tensor = tensors[name].detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16
            return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return Tensors(source, {k: tuple(v.shape) for k, v in tensors.items()}, read)


def numpy_as_torch(array: np.ndarray) -> Any:
    """The PyTorch tensor of an array, which shares its data where the array can be written."""
    import torch

    array = np.require(array, requirements=("C", "W"))
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
