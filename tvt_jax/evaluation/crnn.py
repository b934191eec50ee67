"""The recognisers of Real-CE's authors, in PyTorch: crops of any width, each of which JAX would
compile anew.

Source: mjq11302010044/Real-CE, `basicsr/metrics/crnn` and `recognition.py`; Shi et al., "An
End-to-End Trainable Neural Network for Image-based Sequence Recognition". Names are theirs.
"""

import hashlib
import importlib.util
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.files import check_is_file
from tvt_jax.weights.names import check_names_and_shapes
from tvt_jax.weights.tensor_files import load_pickle, torch_tensors_as_numpy

_CHINESE, _ENGLISH, _ALPHABET = "scene_base_CRNN.pth", "crnn.pth", "benchmark.txt"
_LATIN = string.digits + string.ascii_lowercase
_WIDTHS = (64, 128, 256, 256, 512, 512, 512)
_NORMALISED = (2, 4, 6)  # convolutions with batch normalisation
_POOLED = (0, 1, 3, 5)  # convolutions with a pooling after them
_HEIGHT = 32  # px


def load_crnn(folder: Path) -> tuple[str, Callable[[np.ndarray, str], str], frozenset[str]]:
    """Loads both recognisers.

    Args:
      folder: with `scene_base_CRNN.pth`, `crnn.pth` and `benchmark.txt` of Real-CE.

    Returns: name, function and alphabet, as `Recogniser` has them.
    Raises:
      UserError: PyTorch is not installed, or a file is missing, damaged or of another network.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("`crnn` needs PyTorch: `pip install torch`.")
    for name in (_CHINESE, _ENGLISH, _ALPHABET):
        check_is_file(folder / name)
    lines = (folder / _ALPHABET).read_text(encoding="utf-8").splitlines()
    characters = {"CHN": lines[0] if lines else "", "ENG": _LATIN}
    networks = {
        "CHN": _load(folder / _CHINESE, len(characters["CHN"]) + 1, english=False),
        "ENG": _load(folder / _ENGLISH, len(_LATIN) + 1, english=True),
    }

    def read(image: np.ndarray, language: str) -> str:
        scores = networks[language](_input(image, language))[:, 0]
        return _greedy(scores.argmax(1).tolist(), characters[language])

    digests = ", ".join(
        f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]}"
        for name in (_CHINESE, _ENGLISH)
    )
    return f"CRNN of Real-CE ({digests})", read, frozenset(characters["CHN"])


def _input(image: np.ndarray, language: str) -> Any:
    """An image as the networks take it, [1, C, 32, W] float32; the authors' crops are BGR."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None].float()
    height, width = image.shape[:2]
    size = (_HEIGHT, max(min(int(width / height * _HEIGHT), 1024), 16))
    pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic")
    if language == "CHN":
        return pixels
    # The weights of grey meet the channels in the authors' order, blue first.
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (pixels / 255 * weights).sum(1, keepdim=True)


def _greedy(indices: list[int], characters: str) -> str:
    """Reads the best class of each column: repetitions are one character, 0 is the blank."""
    pairs = zip(indices, [0, *indices[:-1]], strict=True)
    return "".join(characters[i - 1] for i, before in pairs if i and i != before)


def _load(path: Path, classes: int, english: bool) -> Callable[[Any], Any]:
    """A recogniser with its weights, from [1, C, 32, W] to [columns, 1, classes]."""
    import torch

    cnn, rnn = _layers(classes, english)
    network = torch.nn.ModuleDict({"cnn": cnn, "rnn": rnn})
    content = load_pickle(path)
    state = content[0] if isinstance(content, list) else content  # `crnn.pth` may be in a list
    tensors = torch_tensors_as_numpy(state, str(path)).renamed(_own_name)
    wanted = {n: tuple(t.shape) for n, t in network.state_dict().items() if _own_name(n)}
    check_names_and_shapes(wanted, {name: tensors.shape(name) for name in tensors}, str(path))
    found = {name: torch.from_numpy(np.array(tensors[name])) for name in tensors}
    network.load_state_dict(found, strict=False)  # but for the counters that `_own_name` drops
    # The authors leave the Chinese one in training mode: it normalises by the crop itself.
    network.train(not english)

    @torch.no_grad()
    def call(image):
        columns = cnn(image).mean(2).permute(2, 0, 1)  # one row is left, or eight are averaged
        for layer in rnn:
            columns = layer["embedding"](layer["rnn"](columns)[0])
        return columns

    return call


def _own_name(name: str) -> str | None:
    """A tensor's name here; None for the counters of batches, which older files lack."""
    return None if name.endswith("num_batches_tracked") else name.removeprefix("module.")


def _layers(classes: int, english: bool) -> tuple[Any, Any]:
    """The convolutions, and two bidirectional LSTMs with a linear layer each."""
    from torch import nn

    cnn, channels = nn.Sequential(), 1 if english else 3
    for i, width in enumerate(_WIDTHS):
        last = english and i == len(_WIDTHS) - 1
        kernel, padding = (2, 0) if last else (3, 1)
        cnn.add_module(f"conv{i}", nn.Conv2d(channels, width, kernel, padding=padding))
        if i in _NORMALISED:
            cnn.add_module(f"batchnorm{i}", nn.BatchNorm2d(width))
        cnn.add_module(f"relu{i}", nn.ReLU())
        if i in _POOLED:
            cnn.add_module(f"pooling{_POOLED.index(i)}", _pooling(i, english))
        channels = width
    rnn = nn.ModuleList(
        nn.ModuleDict(
            {
                "rnn": nn.LSTM(inputs, 256, bidirectional=True),
                "embedding": nn.Linear(512, outputs),
            }
        )
        for inputs, outputs in ((512, 256), (256, classes))
    )
    return cnn, rnn


def _pooling(i: int, english: bool) -> Any:
    """The maximum of 2x2 px after a convolution; the Chinese network keeps its first rows."""
    from torch import nn

    if i > 1:
        return nn.MaxPool2d(2, (2, 1), (0, 1))
    return nn.MaxPool2d(2) if english else nn.MaxPool2d(2, (1, 2), (1, 0))
