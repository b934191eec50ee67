"""What reads lines of text: RapidOCR, or the networks of Real-CE's authors."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.evaluation.crnn import load_crnn

_PACKAGES = ("rapidocr", "onnxruntime")


class Recogniser(NamedTuple):
    """Reads lines of text.

    Attributes:
      name: with version or hashes, for reports.
      read: from an image of one line, [H, W, 3] uint8, and its language, "CHN" or "ENG", to what
        it says.
      alphabet: the characters that the authors of Real-CE count in Chinese lines; None where
        readings are counted without one.
    """

    name: str
    read: Callable[[np.ndarray, str], str]
    alphabet: frozenset[str] | None = None


def load_recogniser(crnn: Path | None = None) -> Recogniser:
    """Loads a recogniser.

    Args:
      crnn: folder with the networks of Real-CE's authors, see `load_crnn`. None: RapidOCR, whose
        wheel brings its networks, without its search for lines.

    Raises:
      UserError: a package or a file is missing.
    """
    if crnn is not None:
        return Recogniser(*load_crnn(crnn))
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"reading text needs {' and '.join(missing)}, not installed here: "
            "`pip install rapidocr==3.10.0 onnxruntime`."
        )
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})

    def read(image: np.ndarray, language: str) -> str:
        found = engine(image[..., ::-1], use_det=False, use_cls=False, use_rec=True).txts
        return "".join(found or ())

    return Recogniser(f"rapidocr {importlib.metadata.version('rapidocr')}", read)
