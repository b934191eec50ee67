"""The Python interface: load a model folder once, upscale many images."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

import tvt_jax
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.config import SchedulerConfig
from tvt_jax.diffusion import ONE_STEP_TIMESTEP, alphas_cumprod
from tvt_jax.errors import UserError, check_type
from tvt_jax.files import claimed
from tvt_jax.images.formats import DEFAULT_ENCODING, Encoding
from tvt_jax.inference import sizing
from tvt_jax.inference.any_image import ImageLike, Progress, no_progress, upscale_all
from tvt_jax.inference.exported import ExportedUpscaler
from tvt_jax.inference.jobs import plan_jobs
from tvt_jax.inference.loading import Tag, load_model
from tvt_jax.inference.memory_plan import MemoryPlan, plan_memory
from tvt_jax.inference.one_step import Report
from tvt_jax.inference.options import DEFAULTS, RestorationOptions
from tvt_jax.inference.tile_programs import TilePrograms
from tvt_jax.inference.tiled import TiledRestoration, quantised
from tvt_jax.inference.unfinished import Unfinished, fingerprint, hash_of_weights
from tvt_jax.inference.whole_files import Written, upscale_file
from tvt_jax.inference.whole_programs import WholePrograms
from tvt_jax.memory import compile_to_fit
from tvt_jax.models.networks import Network
from tvt_jax.parallel import make_row_mesh, on_every_device
from tvt_jax.text import Text, build_prompt


def print_note(line: str) -> None:
    """Where notes go when the caller does not say."""
    print(f"note: {line}", file=sys.stderr)


class Upscaled(NamedTuple):
    """What became of an image.

    Attributes:
      image: [H, W, 3], of the dtype of the input.
      tags: what the prompt says is seen in it.
    """

    image: np.ndarray
    tags: tuple[str, ...]


class Upscaler:
    """Restores and enlarges photographs with one step of diffusion.

    >>> upscaler = Upscaler.from_folder("model")    # or without a folder: the small bundled model
    >>> large = upscaler(image, scale=4)            # uint8 [H, W, 3] -> [4H, 4W, 3]
    """

    def __init__(
        self,
        vae: Network,
        unet: Network,
        text: Text,
        scheduler: SchedulerConfig,
        tagger: Tag | None = None,
        mesh: Mesh | None = None,
    ):
        self._vae, self._unet, self._text, self._tagger = vae, unet, text, tagger
        self._embed = functools.lru_cache(maxsize=64)(text.embed)
        self._alpha_bar = alphas_cumprod(scheduler)[ONE_STEP_TIMESTEP]
        self._multiple = max(8, vae.config.downsampling)
        self._unit = vae.config.downsampling * 2 ** (len(unet.config.block_out_channels) - 1)
        self._mesh = mesh  # of devices that share every image
        self._copies: list[Upscaler] = []  # one on each of them

    @classmethod
    def from_folder(
        cls,
        model: str | Path = SMALL_MODEL,
        dtype: str = "auto",
        devices: Sequence[jax.Device] | None = None,
        lora_scale: float = 1.0,
    ) -> "Upscaler":
        """Loads a model folder; its tagger when the first image comes.

        Args:
          model: folder written by `python -m tvt_jax.convert`, or by stage 3 of `train`, or the
            id of such a folder on the Hugging Face hub. Default: the small model that is bundled,
            for CPUs.
          dtype: of the computation: "float32", "bfloat16", "float16", or "auto", which is bfloat16
            where the device computes in it and float32 elsewhere. In float16 the VAE stays in
            float32: its values leave float16's range.
          devices: each gets a copy of the weights. They share an image, each some of its rows;
            of a list of images each takes whole ones. Default: the first one.
          lora_scale: strength of the UNet's adapters, where the folder keeps them apart: 0 leaves
            them out, 1 is as they were trained.

        Raises:
          TypeError: an argument is of another type.
          UserError: the folder is incomplete, damaged or inconsistent, or has no adapters.
        """
        loaded = load_model(model, dtype, lora_scale)
        if devices is None:
            return cls(*loaded)
        devices = list(devices)
        if not devices or not all(isinstance(device, jax.Device) for device in devices):
            raise TypeError("`devices` must be a sequence of one or more of jax.devices().")
        # The copies for lists of images are the same arrays.
        mesh = make_row_mesh(devices)
        together = loaded.on(on_every_device(mesh))
        copies = [cls(*together.on(SingleDeviceSharding(device))) for device in devices]
        if len(copies) == 1:
            return copies[0]
        upscaler = cls(*together, mesh)
        upscaler._copies = copies
        return upscaler

    @staticmethod
    def from_export(folder: str | Path) -> ExportedUpscaler:
        """Opens what `python -m tvt_jax.export --format stablehlo` wrote."""
        return ExportedUpscaler(folder)

    @property
    def takes_prompts(self) -> bool:
        """Whether the model reads prompts and tags; else it has one stored embedding."""
        return self._text.takes_prompts

    @property
    def has_tagger(self) -> bool:
        """Whether images are tagged when no tags are given."""
        return self._tagger is not None

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        options: RestorationOptions = DEFAULTS,
        *,
        tags: Sequence[str] | None = None,
        progress: Progress = no_progress,
        **changes: Any,
    ) -> Any:
        """Upscales an image, or several.

        >>> upscaler(array, scale=2, prompt="a cat")
        >>> upscaler("photo.png").save("large.png")
        >>> upscaler([first, second], options)

        Args:
          image: an array [H, W, 3] uint8 or uint16, sRGB; an image of Pillow; the path of a file
            (`upscale_file` writes one with all that is in it); or a list or tuple of these.
          options: how.
          tags: as of `upscale`.
          progress: takes how many images are done and how many there are, after each.
          changes: fields of `RestorationOptions`, in the place of those of `options`.

        Returns: for an array [round(scale x H), round(scale x W), 3] of its dtype; for an image of
          Pillow or a path, an image of Pillow of the same mode, with profile and metadata in its
          `info`; for several, a list.
        Raises:
          TypeError: an argument is of another type.
          UserError: as `upscale`; a file cannot be read.
        """
        check_type("options", options, RestorationOptions)
        options = dataclasses.replace(options, **changes)
        several = isinstance(image, list | tuple)
        upscales = [
            functools.partial(worker._upscale_array, options=options, tags=tags)
            for worker in (several and self._copies) or [self]
        ]
        results = upscale_all(upscales, image if several else [image], progress)
        return results if several else results[0]

    def _upscale_array(
        self, image: np.ndarray, options: RestorationOptions, tags: Sequence[str] | None
    ) -> np.ndarray:
        return self.upscale(image, options, tags).image

    def upscale_file(
        self,
        source: str | Path,
        target: str | Path,
        options: RestorationOptions = DEFAULTS,
        encoding: Encoding = DEFAULT_ENCODING,
        *,
        tags: Sequence[str] | None = None,
        all_frames: bool = False,
        **changes: Any,
    ) -> Written:
        """Upscales a file as `python -m tvt_jax.infer` does: it leaves as it came.

        >>> upscaler.upscale_file("photo.tif", "large.tif", scale=2)

        A large one that is interrupted goes on where it was when the call is repeated: until it is
        done, it lies in a folder beside the target.

        Args:
          source, target: the files; the target's suffix says its format.
          options, tags, changes: as in `__call__`.
          encoding: quality and metadata of the target.
          all_frames: of an animation, or all pages; else the first.

        Raises:
          TypeError: an argument is of another type.
          UserError: as `upscale`; a file cannot be read or written, or another process writes the
            target.
        """
        check_type("source", source, str, Path)
        check_type("target", target, str, Path)
        check_type("options", options, RestorationOptions)
        check_type("encoding", encoding, Encoding)
        options = dataclasses.replace(options, **changes)
        if not Path(source).is_file():
            raise UserError(f"`source` {source} is no file.")
        [job] = plan_jobs([Path(source)], Path(target), encoding)
        with claimed(job.target) as ours:
            if not ours:
                raise UserError(f"`target` {target} is another process's work.")
            arguments = (job.source, job.target, job.format, options, encoding, tags, all_frames)
            return upscale_file(self.upscale, *arguments)

    def upscale(
        self,
        image: np.ndarray,
        options: RestorationOptions = DEFAULTS,
        tags: Sequence[str] | None = None,
        *,
        report: Report = print_note,
        progress: Callable[[int, int], None] = lambda done, total: None,
        folder: Path | None = None,
        to_write: float = 0.0,
    ) -> Upscaled:
        """Enlarges one image and restores it, by tiles where memory does not suffice for the whole.

        Args:
          image: [H, W, 3] uint8 or uint16, sRGB, any size from 1 x 1 on.
          options: how.
          tags: what is seen in the image, before the text in the prompt; () for nothing, None to
            ask the tagger, if the model has one.
          report: takes lines about how it is done and what was done again.
          progress: takes how many steps are done and how many there are, after each tile.
          folder: keeps a restoration by tiles while it is unfinished: called again with the same
            arguments it goes on there, and the result is a file in it, mapped into memory. The
            caller removes it. None: the result is in memory.
          to_write: bytes a pixel that the caller needs afterwards to write the result.

        Raises:
          UserError: an argument is wrong, the model takes no prompts, memory does not suffice, or
            the result is not finite.
        """
        sizing.check_image(image)
        plan = sizing.plan_sizes(image.shape[1], image.shape[0], options.scale)
        source = sizing.EnlargedInput(image, plan, self._multiple)
        how = self._plan_memory(source, options, to_write)
        if how.tiles is None:
            enlarged = sizing.enlarge(image, plan)
            if tags is None:
                tags = self._tag(enlarged)
            context = self._context(options, tags, report)
            restored = self._whole_programs.restore(enlarged, context, options, report)
            return Upscaled(sizing.to_output(quantised(restored, image.dtype), plan), tuple(tags))
        report(how.described(source.size))
        if tags is None:
            tags = self._tag(image)
        shape, context = (*source.size, 3), self._context(options, tags, report)
        if folder is None:
            work = Unfinished(np.empty(shape, image.dtype))
        else:
            fingerprint = self._fingerprint(image, context, options, how.tiles)
            work = Unfinished.open(folder, fingerprint, shape, image.dtype)
            if work.tiles:
                report(f"going on where {folder} was left")
        self._restore_tiles(source, context, options, how, work, report, progress)
        return Upscaled(sizing.to_output(work.pixels, plan), tuple(tags))

    def restore(
        self,
        image: np.ndarray,
        options: RestorationOptions = DEFAULTS,
        *,
        tags: Sequence[str] | None = None,
        report: Report = print_note,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **changes: Any,
    ) -> np.ndarray:
        """Restores an image that has its final size already, without rounding.

        Args:
          image: [H, W, 3] uint8 or uint16, the enlarged input.
          options, tags, changes: as in `__call__`; the scale plays no part.
          report, progress: as in `upscale`.

        Returns: [H, W, 3] float32, about [0, 1] (a colour fix may leave that range).
        Raises: as `upscale`.
        """
        sizing.check_image(image)
        options = dataclasses.replace(options, **changes)
        tags = self._tag(image) if tags is None else tags
        size = (image.shape[1], image.shape[0])
        source = sizing.EnlargedInput(image, sizing.SizePlan(size, size, size), self._multiple)
        how = self._plan_memory(source, options)
        context = self._context(options, tags, report)
        if how.tiles is None:
            return self._whole_programs.restore(image, context, options, report)
        report(how.described(source.size))
        work = Unfinished(np.empty(image.shape, np.float32))
        self._restore_tiles(source, context, options, how, work, report, progress)
        return work.pixels

    def _plan_memory(self, source, options: RestorationOptions, to_write=0.0) -> MemoryPlan:
        devices = 1 if self._mesh is None else self._mesh.size
        size, vae = source.padded, self._vae.config
        return plan_memory(size, vae, self._unit, options, to_write, devices)

    def _tag(self, image: np.ndarray) -> list[str]:
        """What is seen in an image; the tagger sees it enlarged, as in the release."""
        if self._tagger is None:
            return []
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        return self._tagger([image])[0]

    def _context(
        self, options: RestorationOptions, tags: Sequence[str], report: Report
    ) -> jax.Array:
        """The embedding of the prompt, [1, N, C]."""
        prompt = options.prompt
        if self.takes_prompts or tags:
            prompt = build_prompt(tags, prompt)
        if self.takes_prompts and (unread := self._text.unread(prompt)):
            report(f"the prompt is too long, this is not read: {unread}")
        return self._embed(prompt)

    def _precisions(self, what: str, report: Report) -> Iterator[tuple[Network, Network]]:
        """VAE and UNet as they are, then, for what is not finite in 16 bits, in float32."""
        yield self._vae, self._unet
        if self._unet.dtype != jnp.float32:
            report(f"{what} is not finite in {self._unet.dtype}: once more in float32")
            yield self._in_float32

    @functools.cached_property
    def _in_float32(self) -> tuple[Network, Network]:
        return self._vae.with_dtype(jnp.float32), self._unet.with_dtype(jnp.float32)

    @functools.cached_property
    def _whole_programs(self) -> WholePrograms:
        return WholePrograms(
            self._precisions, float(self._alpha_bar), self._vae.config, self._multiple, self._mesh
        )

    @functools.cached_property
    def _tile_programs(self) -> TilePrograms:
        advice = "use a smaller `tile`"
        return TilePrograms(
            self._precisions,
            float(self._alpha_bar),
            lambda lowered, what: compile_to_fit(lowered, what, advice)[0],
            self._mesh,
        )

    @functools.cached_property
    def _hash_of_weights(self) -> bytes:
        return hash_of_weights(self._vae.params, self._unet.params)

    def _fingerprint(self, image, context, options: RestorationOptions, tiles) -> str:
        chosen = (options.scale, options.color_fix, options.blend, options.seed_of_sample)
        dtypes = (self._vae.dtype.name, self._unet.dtype.name)
        decided = (image.shape, *chosen, tiles, *dtypes, tvt_jax.__version__)
        return fingerprint(decided, (image, np.asarray(context)), self._hash_of_weights)

    def _restore_tiles(
        self, source, context, options, how: MemoryPlan, work: Unfinished, report, progress
    ) -> None:
        accuracy = TiledRestoration(
            self._tile_programs,
            source,
            context,
            options.color_fix,
            options.blend,
            options.seed_of_sample,
            how.tiles,
            work,
            report,
            progress,
        )()
        report(accuracy.described())
