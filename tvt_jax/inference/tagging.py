"""From images to the tags of what is seen in them."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tvt_jax.config import TaggerConfig
from tvt_jax.errors import UserError
from tvt_jax.models.networks import Network
from tvt_jax.models.tagger import LabelQueries
from tvt_jax.weights.model_folder import load_network, read_network_config
from tvt_jax.weights.tag_lists import read_tag_lists

DTYPES = ("float32", "bfloat16")
# Mean and deviation of ImageNet's colours, which the encoder was trained with.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_ACCELERATOR_BATCH = 8
_CPU_BATCH = 1  # larger ones take as long an image, and more memory


class Tagger:
    """Says what is seen in images.

    >>> tagger = load_tagger(Path("model"))
    >>> tagger([image])                              # uint8 [H, W, 3]
    [['cat', 'tree']]

    Attributes:
      config: of the network; `config.dape` says whether DAPE is merged.
      names: the K tags that it knows.
      thresholds: [K] float32, the probability that each must exceed.
    """

    def __init__(
        self,
        config: TaggerConfig,
        load: Callable[[], Network],
        names: Sequence[str],
        thresholds: np.ndarray,
        batch_size: int,
        devices: Sequence[jax.Device],
    ):
        self.config, self.names, self.thresholds = config, tuple(names), thresholds
        self._load, self._loading = load, threading.Lock()
        self._batch_size = batch_size
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        self._num_devices = len(devices)
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("data"))

    def __call__(self, images: Iterable[np.ndarray]) -> list[list[str]]:
        """Returns the tags of each image, in the order of the classes.

        Args:
          images: [H, W, 3] uint8, of any sizes; may be a generator.

        Raises:
          UserError: an image is something else.
        """
        return [self.select(row) for row in self.probabilities(images)]

    def probabilities(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the probability of every class, [K] float32, for each image in turn.

        Images are taken a batch at a time, and the next batch is read and resized while the
        devices work on the last one. One program is compiled for a call: the last batch is filled
        up to the size of the others.

        Args and Raises: as `__call__`.
        """
        images = iter(images)
        limit = self._batch_size * self._num_devices
        size, waiting = None, None
        while group := [self._prepare(image) for image in itertools.islice(images, limit)]:
            if size is None:
                size = self._padded_size(len(group))
            batch = np.stack(group + [group[-1]] * (size - len(group)))
            probabilities = self._classify(jax.device_put(batch, self._split))
            if waiting is not None:
                yield from waiting()
            waiting = functools.partial(_first_rows, probabilities, len(group))
        if waiting is not None:
            yield from waiting()

    def select(self, probabilities: np.ndarray) -> list[str]:
        """Tags whose probability [K] exceeds the threshold, in the order of the classes."""
        return [self.names[i] for i in np.flatnonzero(probabilities > self.thresholds)]

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        return resize(image, self.config.image_size, self.config.antialias)

    def _padded_size(self, count: int) -> int:
        """Images in a batch that has room for `count`: few sizes, so that few are compiled."""
        each = -(-count // self._num_devices)
        return min(self._batch_size, 1 << (each - 1).bit_length()) * self._num_devices

    def _classify(self, images: jax.Array) -> jax.Array:
        """Maps images [B, S, S, 3] in [0, 1] to probabilities [B, K].

        The weights are loaded here, when the first image comes.
        """
        with self._loading:  # threads may share a tagger: `cached_property` has no lock
            classify = self._compiled
        return classify(images)

    @functools.cached_property
    def _compiled(self) -> Callable[[jax.Array], jax.Array]:
        network = self._load()
        params = jax.device_put(network.params, self._everywhere)
        labels = label_queries(network.graph, params)
        return functools.partial(class_probabilities, network.graph, params, labels)


def load_tagger(
    folder: str | Path,
    dtype: str = "float32",
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Tagger:
    """Opens the tagger of a model folder; the weights are read when the first image comes.

    Args:
      folder: a model folder with a `tagger/`, or that subfolder itself.
      dtype: of weights and computation. "bfloat16" is smaller and faster on an accelerator, and
        changes some tags.
      batch_size: images that a device works on at a time; None for what suits the platform.
      devices: that share the work, each with a copy of the weights; None for all of this process.

    Raises:
      UserError: there is no tagger, or it is incomplete. (Damaged weights are found when they are
        read.)
    """
    if dtype not in DTYPES:
        raise UserError(f"`dtype` {dtype} is not one of {', '.join(DTYPES)}.")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"`batch_size` {batch_size} must be positive.")
    folder = Path(folder)
    own = folder / "tagger" if (folder / "tagger").is_dir() else folder
    if not (own / "config.json").is_file():
        raise UserError(
            f"{folder} has no tagger/ folder. Make one with `python -m tvt_jax.convert tagger`."
        )
    config = read_network_config(own, "tagger")
    names, thresholds = read_tag_lists(own, config.num_classes)
    devices = jax.local_devices() if devices is None else devices
    if batch_size is None:
        batch_size = _CPU_BATCH if devices[0].platform == "cpu" else _ACCELERATOR_BATCH
    load = functools.partial(load_network, own, "tagger", jnp.dtype(dtype), jnp.dtype(dtype))
    return Tagger(config, load, names, thresholds, batch_size, devices)


def resize(image: np.ndarray, side: int, antialias: bool) -> np.ndarray:
    """Resizes an image to a square by bilinear interpolation, as torchvision resizes a tensor.

    The same numbers as `jax.image.resize`, which compiles a program for every size of image;
    photographs have many.

    Args:
      image: [H, W, 3] uint8.
      side: of the result; the aspect ratio is not kept.
      antialias: average over the pixels that one pixel of the result covers.

    Returns: [side, side, 3] float32 in [0, 1].
    Raises:
      UserError: the image is something else.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"an image must be [height, width, 3] uint8, not {image.shape} {image.dtype}."
        )
    x = image.astype(np.float32) / np.float32(255)
    for _ in range(2):  # along the rows, then, transposed, along the columns
        weights = _interpolation(len(x), side, antialias)
        x = (weights @ x.reshape(len(x), -1)).reshape(side, x.shape[1], 3).transpose(1, 0, 2)
    return np.ascontiguousarray(x)


@functools.lru_cache(maxsize=64)
def _interpolation(size: int, new_size: int, antialias: bool) -> scipy.sparse.csr_matrix:
    """Weights [new_size, size] of a triangular filter, each row normalised to 1.

    In float32, as torch and jax place the pixels: 1e-5 off the exact place where there are many.
    """
    scale = np.float32(size / new_size)
    reach = max(scale, np.float32(1)) if antialias else np.float32(1)
    centres = (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    distances = np.abs(np.arange(size, dtype=np.float32)[None, :] - centres[:, None]) / reach
    weights = np.maximum(1 - distances, 0)
    return scipy.sparse.csr_matrix(weights / weights.sum(axis=1, keepdims=True))


@functools.partial(jax.jit, static_argnums=0)
def label_queries(graph: nnx.GraphDef, params: nnx.State) -> LabelQueries:
    """What the network computes of the classes alone, once for all images."""
    return nnx.merge(graph, params).label_queries()


@functools.partial(jax.jit, static_argnums=0)
def class_probabilities(
    graph: nnx.GraphDef, params: nnx.State, labels: LabelQueries, images: jax.Array
) -> jax.Array:
    """Maps images [B, S, S, 3] float32 in [0, 1] to probabilities [B, K]."""
    mean, deviation = (jnp.array(x, jnp.float32).reshape(1, 1, 1, 3) for x in (_MEAN, _DEVIATION))
    logits = nnx.merge(graph, params)((images - mean) / deviation, labels)
    return jax.nn.sigmoid(logits)


def _first_rows(array: jax.Array, count: int) -> np.ndarray:
    return np.asarray(array)[:count]
