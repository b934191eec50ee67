"""Typed settings of everything configurable: networks, noise schedule, training runs.

Standard library only, so that tools can read configurations without importing jax. The network
configurations mirror the `config.json` of a diffusers folder, key by key.
"""

import dataclasses
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tvt_jax.errors import UserError

# --------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _NetworkConfig:
    """Reading and writing of a `config.json`. Subclasses are the networks' configurations."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "config.json") -> Self:
        """Builds the configuration from the parsed `config.json` of a network's folder.

        Args:
          values: the parsed file. Keys that this project does not need are allowed as long as they
            hold the value that the code assumes (`_assumed`); keys in `_ignored` may hold anything.
          source: what to call the file in an error message.

        Raises:
          UserError: a key is missing, unknown, or asks for something that is not implemented.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        wrong = []
        for key, value in values.items():
            if key.startswith("_") or key in fields or key in cls._ignored():
                continue
            if key in cls._assumed():
                if value not in (None, cls._assumed()[key]):
                    wrong.append(f"{key} = {value!r} (only {cls._assumed()[key]!r} is supported)")
            elif value not in (None, False):
                wrong.append(f"{key} = {value!r} (unknown)")
        missing = [
            name
            for name, field in fields.items()
            if name not in values and field.default is dataclasses.MISSING
        ]
        wrong += [f"{name} is missing" for name in missing]
        if wrong:
            raise UserError(f"{source} does not describe a {cls.__name__}: {'; '.join(wrong)}.")
        known = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name]
            for name in fields
            if values.get(name) is not None
        }
        try:
            config = cls(**known)
            config.validate()
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: {error}") from error
        return config

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a `config.json` that diffusers or transformers also accept."""
        return {**self._header(), **self._assumed(), **dataclasses.asdict(self)}

    def validate(self) -> None:
        """Raises ValueError when fields contradict each other."""

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def _assumed(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def _ignored(cls) -> frozenset[str]:
        return frozenset()


@dataclasses.dataclass(frozen=True)
class VAEConfig(_NetworkConfig):
    """A convolutional VAE in the layout of diffusers' `AutoencoderKL`.

    `mid_block` and `skip_connections` are additions: VAE-D4 has no middle section at all, and
    ablation S2 feeds encoder features to the decoder. diffusers ignores both keys.
    """

    block_out_channels: tuple[int, ...]
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    mid_block: bool = True
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    skip_connections: bool = False

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def validate(self) -> None:
        """Raises ValueError when a width is not divisible by the number of norm groups."""
        _check_groups(self.block_out_channels, self.norm_num_groups)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the VAE's `config.json`."""
        levels = len(self.block_out_channels)
        return {
            **super().to_json(),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"_class_name": "AutoencoderKL"}

    @classmethod
    def _assumed(cls) -> dict[str, Any]:
        return {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}

    @classmethod
    def _ignored(cls) -> frozenset[str]:
        return frozenset({"sample_size", "force_upcast", "down_block_types", "up_block_types"})


@dataclasses.dataclass(frozen=True)
class UNetConfig(_NetworkConfig):
    """A denoising network in the layout of diffusers' `UNet2DConditionModel`.

    `attention_head_dim` keeps diffusers' historical name: it holds the NUMBER of heads of each
    level, and the channels of a head follow from the level's width.
    """

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    cross_attention_dim: int
    attention_head_dim: int | tuple[int, ...]
    in_channels: int = 4
    out_channels: int = 4
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Attention heads of each level, from full resolution down."""
        heads = self.attention_head_dim
        return (heads,) * len(self.block_out_channels) if isinstance(heads, int) else heads

    def validate(self) -> None:
        """Raises ValueError when lengths, widths, heads or block types do not fit together."""
        levels = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types", "num_heads"):
            if len(getattr(self, name)) != levels:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, not {levels}")
        allowed = {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        for name, types in allowed.items():
            for block_type in getattr(self, name):
                if block_type not in types:
                    raise ValueError(f"{name}: {block_type!r} is not one of {', '.join(types)}")
        _check_groups(self.block_out_channels, self.norm_num_groups)
        for width, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"{width} channels cannot be split over {heads} heads")

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"_class_name": "UNet2DConditionModel"}

    @classmethod
    def _assumed(cls) -> dict[str, Any]:
        return {
            "act_fn": "silu",
            "use_linear_projection": True,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "downsample_padding": 1,
            "mid_block_scale_factor": 1,
            "transformer_layers_per_block": 1,
            "resnet_time_scale_shift": "default",
            "resnet_out_scale_factor": 1.0,
            "time_embedding_type": "positional",
            "conv_in_kernel": 3,
            "conv_out_kernel": 3,
            "attention_type": "default",
            "dropout": 0.0,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "config.json") -> Self:
        """Builds the configuration; see the base class. Convolutional projections are refused."""
        if not values.get("use_linear_projection"):
            raise UserError(
                f"{source} describes a UNet with convolutional projections (Stable Diffusion 1); "
                "use a Stable Diffusion 2.1 UNet (use_linear_projection = true)."
            )
        return super().from_json(values, source)

    @classmethod
    def _ignored(cls) -> frozenset[str]:
        # upcast_attention: softmax is always computed in float32 here.
        return frozenset({"sample_size", "upcast_attention", "addition_embed_type_num_heads"})


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig(_NetworkConfig):
    """A CLIP text encoder in the layout of transformers' `CLIPTextModel`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"  # transformers' default; SD 2.1 says "gelu"
    layer_norm_eps: float = 1e-5

    def validate(self) -> None:
        """Raises ValueError for an unknown activation or an uneven split over heads."""
        if self.hidden_act not in ("gelu", "quick_gelu"):
            raise ValueError(f"hidden_act {self.hidden_act!r} is not gelu or quick_gelu")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{self.hidden_size} channels cannot be split over {self.num_attention_heads} heads"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "config.json") -> Self:
        """Builds the configuration; transformers' many general keys are not looked at."""
        names = {field.name for field in dataclasses.fields(cls)}
        return super().from_json({k: v for k, v in values.items() if k in names}, source)

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}


@dataclasses.dataclass(frozen=True)
class SchedulerConfig(_NetworkConfig):
    """The noise schedule: what of a `scheduler_config.json` matters for one step."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"

    def validate(self) -> None:
        """Raises ValueError for a schedule or a prediction that SD 2.1-base does not use."""
        if self.beta_schedule != "scaled_linear":
            raise ValueError(f"beta_schedule {self.beta_schedule!r} is not scaled_linear")
        if self.prediction_type != "epsilon":
            raise ValueError(
                f"prediction_type {self.prediction_type!r} is not epsilon "
                "(take Stable Diffusion 2.1-base, not the 768 px model)"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "scheduler_config.json") -> Self:
        """Builds the configuration; keys of multi-step samplers are not looked at."""
        names = {field.name for field in dataclasses.fields(cls)}
        return super().from_json({k: v for k, v in values.items() if k in names}, source)

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"_class_name": "DDPMScheduler", "clip_sample": False}


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on convolutions and linear layers; peft's conventions.

    Attributes:
      rank: width of the adapters.
      alpha: the adapters' output is scaled by alpha / rank. 8 is peft's default, which the release
        kept at rank 4, so its scale is 2.
      targets: a layer gets an adapter when its name contains one of these texts and none of
        `excluded`.
    """

    rank: int = 4
    alpha: float = 8.0
    targets: tuple[str, ...] = (
        "to_k", "to_q", "to_v", "to_out.0", "conv", "proj_in", "proj_out", "ff.net.0.proj",
        "ff.net.2",
    )  # fmt: skip
    excluded: tuple[str, ...] = ("norm",)

    @property
    def scale(self) -> float:
        """Factor on the product of the two adapter matrices."""
        return self.alpha / self.rank


def _check_groups(widths: tuple[int, ...], groups: int) -> None:
    for width in widths:
        if width % groups:
            raise ValueError(f"{width} channels cannot be split over {groups} norm groups")


# The networks of the paper, by the names that it gives them.
VAE_D8 = VAEConfig(block_out_channels=(128, 256, 512, 512))
VAE_D4 = VAEConfig(block_out_channels=(128, 256, 256), mid_block=False)
VAES = {
    "VAE-D8": VAE_D8,
    "VAE-D4": VAE_D4,
    "V1": VAEConfig(block_out_channels=(128, 256, 512)),
    "V2": VAEConfig(block_out_channels=(128, 256, 512), mid_block=False),
    "VAE-D8C8": dataclasses.replace(VAE_D8, latent_channels=8),
    "VAE-D8-SC": dataclasses.replace(VAE_D8, skip_connections=True),
}
SD21_UNET = UNetConfig(
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=1024,
    attention_head_dim=(5, 10, 20, 20),
)
CE_UNET = UNetConfig(
    block_out_channels=(320, 320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 4 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 4,
    cross_attention_dim=1024,
    attention_head_dim=(5, 5, 10, 20, 20),
)
PRUNED_UNET = dataclasses.replace(
    SD21_UNET,
    block_out_channels=(240, 480, 960, 960),
    attention_head_dim=(4, 8, 16, 16),
    norm_num_groups=24,
)
UNETS = {"SD 2.1": SD21_UNET, "CE-UNet": CE_UNET, "Prun-UNet": PRUNED_UNET}
SD21_TEXT_ENCODER = TextEncoderConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)

# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------
# These are mutable, because `--config.optim.learning_rate=1e-4` on the command line changes them.
# `TrainConfig.validate` is called once, when the command line has been read.


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


@dataclasses.dataclass
class DataConfig:
    """Where photographs come from and how they are cut."""

    train: str = ""  # folder of photographs, searched to the bottom
    crop: int = 512  # side of the random square crops, px
    batch_size: int = 16  # of all devices together
    threads: int = 8  # that read, cut and flip beside the accelerator


@dataclasses.dataclass
class ValidationConfig:
    """Photographs that are measured while training, never trained on."""

    folder: str = ""  # empty: no validation
    every: int = 5000  # steps
    crop: int = 256  # side of the crop from the middle of each photograph, px
    pictures: int = 8  # shown in TensorBoard


@dataclasses.dataclass
class MeshConfig:
    """Devices along each axis; -1 takes what is left."""

    data: int = -1  # whole copies of the weights
    fsdp: int = 1  # parts that the weights and the optimizer's moments are split into


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """What every training run has; a stage's own configuration adds its networks and losses."""

    required: tuple[str, ...] = ()  # fields that the command line must fill
    steps: int = 200_000
    seed: int = 0
    dtype: str = "float32"  # of the computation; weights in training are float32
    remat: bool = False  # recompute activations in the backward pass: less memory, more time
    accumulate: int = 1  # parts that a batch is worked through in: less memory, the same step
    ema_decay: float = 0.0  # of an average of the trained weights, which is then exported; 0: none
    max_skipped: int = 20  # updates in a row without finite gradients, before the run stops
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    validation: ValidationConfig = dataclasses.field(default_factory=ValidationConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    # What to say of a field in `required` that is empty.
    HINTS: ClassVar[Mapping[str, str]] = {"data.train": "a folder of photographs"}

    def validate(self) -> None:
        """Checks what can be checked without reading files.

        Raises:
          UserError: a required field is empty or a value is out of range; the message says which
            option to give.
        """
        empty = [name for name in self.required if not self._field(name)]
        if empty:
            options = " ".join(f"--config.{name}=..." for name in empty)
            what = ", ".join(self.HINTS[name] for name in empty)
            raise UserError(f"this run needs {what}: give {options}.")
        positive = (
            "steps", "accumulate", "max_skipped", "log_every", "checkpoint_every",
            "keep_checkpoints", "data.crop", "data.batch_size", "data.threads",
            "optim.learning_rate", "validation.every", "validation.crop",
        )  # fmt: skip
        wrong = [name for name in positive if self._field(name) <= 0]
        if wrong:
            raise UserError(f"{', '.join(f'--config.{name}' for name in wrong)} must be positive.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--config.ema_decay={self.ema_decay} is not in [0, 1).")
        for name, allowed in (
            ("dtype", ("float32", "bfloat16")),
            ("optim.schedule", ("constant", "cosine")),
        ):
            if self._field(name) not in allowed:
                raise UserError(
                    f"--config.{name}={self._field(name)} is not {' or '.join(allowed)}."
                )

    def _field(self, name: str) -> Any:
        value = self
        for part in name.split("."):
            value = getattr(value, part)
        return value


@dataclasses.dataclass
class VAELossConfig:
    """Weights of the terms of a VAE's training loss; a term of weight 0 is not computed.

    The mean absolute error has weight 1. The other weights mean what they mean in latent
    diffusion's code, although that sums where this averages; see `tvt_jax.losses`.
    """

    lpips: float = 1.0
    kl: float = 0.0
    latent: float = 0.0  # mean squared distance of the latent to the teacher's (ablation T2)
    gan: float = 0.0  # on top of the adaptive weight
    gan_start: int = 50_000  # step at which the discriminator and its term join


@dataclasses.dataclass(kw_only=True)
class VAETrainConfig(TrainConfig):
    """Training of a VAE: stages 1 and 2, pre-training from scratch, and their ablations.

    The latent that is decoded comes from the VAE's own encoder or from a frozen teacher. Where the
    teacher compresses more, it encodes the enlarged image; where it has fewer channels, they are
    interpolated.
    """

    vae: VAEConfig
    trained: tuple[str, ...]  # parts of the VAE that learn; the rest is frozen
    latents: str = "own"  # encoder whose latents are decoded: "own" or "teacher"
    init_vae: str = ""  # VAE folder to start from
    fresh: tuple[str, ...] = ()  # parts that start at random although `init_vae` is given
    teacher: str = ""  # VAE folder of the teacher
    lpips: str = ""  # weights of the perceptual loss; empty: where `convert lpips` puts them
    loss: VAELossConfig = dataclasses.field(default_factory=VAELossConfig)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    HINTS: ClassVar[Mapping[str, str]] = {
        **TrainConfig.HINTS,
        "init_vae": "the VAE folder whose decoder stage 1 trained",
        "teacher": "the folder of the teacher VAE (Stable Diffusion 2.1-base's vae)",
    }

    def validate(self) -> None:
        """Checks what can be checked without reading files; see the base class."""
        super().validate()
        factor = self.vae.downsampling
        for name in ("data.crop", "validation.crop"):
            if self._field(name) % factor:
                raise UserError(
                    f"--config.{name}={self._field(name)} is not a multiple of the VAE's "
                    f"downsampling, {factor}."
                )
        if self.latents not in ("own", "teacher"):
            raise UserError(f"--config.latents={self.latents} is not own or teacher.")
        if (self.latents == "teacher" or self.loss.latent) and not self.teacher:
            raise UserError("this run learns from a teacher: give --config.teacher=...")
        if self.latents == "teacher" and (self.loss.latent or self.loss.kl):
            raise UserError(
                "--config.loss.latent and --config.loss.kl are about the VAE's own latents: "
                "they need --config.latents=own."
            )
        if not self.trained:
            raise UserError("--config.trained is empty: nothing would learn.")


def read_config(text: str) -> TrainConfig:
    """Reads a configuration as `train` does, for other commands.

    Args:
      text: path of the file, and after a colon the variant: "configs/stage2.py:tiny".

    Raises:
      UserError: the file or the variant does not exist.
    """
    path, _, variant = text.partition(":")
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; run the command in the project's folder.")
    try:
        return runpy.run_path(path)["get_config"](variant)
    except ValueError as error:
        raise UserError(f"{text}: {error}.") from error
