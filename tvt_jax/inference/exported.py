"""An exported StableHLO folder, run by JAX alone: neither flax nor the networks' code is needed.

upscale.jax_export     what `jax.export` reads: enlargement by 4, restoration, colours
restore.jax_export     the same without the enlargement
*.mlirbc               the same programs as portable StableHLO, for other runtimes
weights.safetensors    by the names that signature.json lists
signature.json         inputs, order of arguments, versions, date of expiry
tokenizer/             and restore_with_tokens.*, where the model has a text encoder
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from tvt_jax.compiler import compiler_options
from tvt_jax.errors import UserError
from tvt_jax.files import read_json
from tvt_jax.inference import sizing
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.text import NO_TEXT_ENCODER, build_prompt, load_tokenizer, tokenize
from tvt_jax.weights.tensor_files import open_tensors

FORMAT = 1
SIGNATURE, WEIGHTS = "signature.json", "weights.safetensors"


class ExportedUpscaler:
    """Upscales as the `Upscaler` of the model that was exported; its colour fix is built in.

    >>> upscaler = ExportedUpscaler("stablehlo")
    >>> large = upscaler(image, scale=4)            # uint8 [H, W, 3] -> [4H, 4W, 3]
    """

    def __init__(self, folder: str | Path):
        """Opens a folder that `python -m tvt_jax.export --format stablehlo` wrote.

        Raises:
          UserError: it is incomplete, damaged, or of another version.
        """
        self._folder = Path(folder)
        if not (self._folder / SIGNATURE).is_file():
            raise UserError(f"{folder} is not an exported folder: it has no {SIGNATURE}.")
        self.signature = read_json(self._folder / SIGNATURE)
        if self.signature.get("format") != FORMAT:
            raise UserError(f"{folder} is of another version of this package; export it again.")
        tensors = open_tensors(self._folder / WEIGHTS)
        self._weights = {name: jax.numpy.asarray(tensors[name]) for name in tensors}
        self._programs: dict[str, Callable] = {}

    @property
    def takes_prompts(self) -> bool:
        """Whether it reads prompts and tags; else it has one embedding built in."""
        return "restore_with_tokens" in self.signature["programs"]

    def __call__(
        self, image: np.ndarray, scale: float = 4, prompt: str | None = None,
        tags: Sequence[str] = (),
    ) -> np.ndarray:  # fmt: skip
        """Upscales one image; arguments, result and errors as of `Upscaler`."""
        sizing.check_image(image, ("uint8",))
        options = RestorationOptions(scale=scale, prompt=prompt)
        plan = sizing.plan_sizes(image.shape[1], image.shape[0], options.scale)
        restored = self.restore(sizing.enlarge(image, plan), prompt, tags)
        return sizing.to_output(restored, plan)

    def restore(
        self, image: np.ndarray, prompt: str | None = None, tags: Sequence[str] = ()
    ) -> np.ndarray:
        """Restores an image [H, W, 3] uint8 that has its final size already; returns the same."""
        sizing.check_image(image, ("uint8",))
        if prompt is None and not tags:
            return self.run("restore", image[None])[0]
        if not self.takes_prompts:
            raise UserError(NO_TEXT_ENCODER)
        _, (_, length) = self.signature["programs"]["restore_with_tokens"]["inputs"]["tokens"]
        tokenizer = load_tokenizer(self._folder / "tokenizer")
        tokens = tokenize(tokenizer, build_prompt(tags, prompt), length)
        return self.run("restore_with_tokens", image[None], tokens)[0]

    def run(self, name: str, *inputs: np.ndarray) -> np.ndarray:
        """Runs one of the programs on a batch.

        Args:
          name: "upscale", "restore" or "restore_with_tokens".
          inputs: images [b, h, w, 3] uint8, and tokens [b, N] int32 for the last.
        """
        if name not in self._programs:
            self._programs[name] = self._load(name)
        return np.asarray(self._programs[name](*inputs))

    def _load(self, name: str) -> Callable:
        path = self._folder / f"{name}.jax_export"
        try:
            exported = jax.export.deserialize(bytearray(path.read_bytes()))
        except ImportError as error:  # of flatbuffers
            raise UserError(f"{error}: pip install 'tvt-jax[export]'.") from error
        except Exception as error:  # of many kinds: a damaged file, a version that is gone
            raise UserError(
                f"{path} cannot be read by jax {jax.__version__} ({error}); export it again."
            ) from error
        names = self.signature["programs"][name]["weights"]
        weights = {n: self._weights[n] for n in names}
        program = jax.jit(exported.call, compiler_options=compiler_options())
        return functools.partial(program, weights)
