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
class TaggerConfig(_NetworkConfig):
    """The tagger RAM: a Swin encoder and a head with a query for each class.

    Names of the encoder's fields are those of transformers' `SwinConfig`, of the head's those of
    `BertConfig`.

    Attributes:
      num_classes: tags that it knows.
      image_size: side of the square that every image is resized to, px.
      projection_dim: width of the image tokens that the head sees, and of the class embeddings.
      antialias: filter when an image is resized down. False is what the release's environment did
        (torchvision 0.15); torchvision from 0.17 on filters.
      dape: whether DAPE's adapters, which fit RAM to degraded images, are merged into the weights.
    """

    num_classes: int
    image_size: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    projection_dim: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    patch_size: int = 4
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-12  # of the head
    antialias: bool = False
    dape: bool = False

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each resolution of the encoder."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def stage_resolutions(self) -> tuple[int, ...]:
        """Side of the feature map of each resolution of the encoder."""
        side = self.image_size // self.patch_size
        return tuple(side // 2**stage for stage in range(len(self.depths)))

    def validate(self) -> None:
        """Raises ValueError when lengths, widths, heads, windows or sizes do not fit together."""
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"num_heads has {len(self.num_heads)} entries, not {len(self.depths)}")
        for width, heads in zip(
            (*self.stage_widths, self.hidden_size),
            (*self.num_heads, self.num_attention_heads),
            strict=True,
        ):
            if width % heads:
                raise ValueError(f"{width} channels cannot be split over {heads} heads")
        if self.image_size % (self.patch_size * 2 ** (len(self.depths) - 1)):
            raise ValueError(f"image_size {self.image_size} cannot be halved at every stage")
        for side in self.stage_resolutions:
            if side % min(self.window_size, side):
                raise ValueError(f"a map of {side}x{side} has no windows of {self.window_size}")

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"architectures": ["RAM"], "model_type": "ram"}

    @classmethod
    def _ignored(cls) -> frozenset[str]:
        return frozenset({"architectures", "model_type"})


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
class DiscriminatorConfig(_NetworkConfig):
    """A PatchGAN discriminator; the defaults see patches of 70 px and have 2.77 M parameters."""

    in_channels: int = 3
    base_channels: int = 64  # of the first convolution; doubled by each further one, at most 8 fold
    num_layers: int = 3  # stride-2 convolutions

    def validate(self) -> None:
        """Raises ValueError when a number is not positive."""
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} = {value} is not positive")

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"_class_name": "NLayerDiscriminator"}


@dataclasses.dataclass(frozen=True)
class LPIPSConfig(_NetworkConfig):
    """The trunk under LPIPS: blocks of convolutions with ReLU, whose last outputs are compared.

    One entry for each block.

    Attributes:
      block_out_channels: width of the block's convolutions.
      layers_per_block: how many they are.
      kernel_sizes, strides, paddings: of each of them, px.
      pool_sizes: window of the max-pooling (stride 2) before the block, px; 0: none.
    """

    block_out_channels: tuple[int, ...]
    layers_per_block: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    pool_sizes: tuple[int, ...]

    def validate(self) -> None:
        """Raises ValueError when the fields have different lengths."""
        for field in dataclasses.fields(self):
            length = len(getattr(self, field.name))
            if length != len(self.block_out_channels):
                raise ValueError(
                    f"{field.name} has {length} entries, not {len(self.block_out_channels)}"
                )

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"_class_name": "LPIPS"}


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


# What the release puts after the tags of an image, in training and at inference.
QUALITY_WORDS = "clean, high-resolution, 8k"

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
RAM_SWIN_LARGE = TaggerConfig(
    num_classes=4585,
    image_size=384,
    embed_dim=192,
    depths=(2, 2, 18, 2),
    num_heads=(6, 12, 24, 48),
    window_size=12,
    projection_dim=512,
    hidden_size=768,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=3072,
)
# The trunks of LPIPS, by torchvision's names: VGG16 is trained with, both are evaluated with.
LPIPS_NETS = {
    "vgg16": LPIPSConfig(
        block_out_channels=(64, 128, 256, 512, 512),
        layers_per_block=(2, 2, 3, 3, 3),
        kernel_sizes=(3,) * 5,
        strides=(1,) * 5,
        paddings=(1,) * 5,
        pool_sizes=(0, 2, 2, 2, 2),
    ),
    "alexnet": LPIPSConfig(
        block_out_channels=(64, 192, 384, 256, 256),
        layers_per_block=(1,) * 5,
        kernel_sizes=(11, 5, 3, 3, 3),
        strides=(4, 1, 1, 1, 1),
        paddings=(2, 2, 1, 1, 1),
        pool_sizes=(0, 3, 3, 0, 0),
    ),
}

# --------------------------------------------------------------------------------------------------
# Degradation
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class DegradationPass:
    """Blur, resize, noise and JPEG; the defaults are the first pass of the preset `MILD`.

    The names are the keys of the public `params_*.yml`, where a final 2 marks the second pass.
    Ranges are (low, high) of a uniform distribution.
    """

    blur_prob: float = 1.0
    sinc_prob: float = 0.1  # of a sinc kernel; otherwise `kernel_prob` chooses the kind of bell:
    # iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    blur_sigma: tuple[float, float] = (0.2, 3.0)  # px
    betag_range: tuple[float, float] = (0.5, 4.0)  # exponent of the generalized bells
    betap_range: tuple[float, float] = (1.0, 2.0)  # exponent of the plateaus
    resize_prob: tuple[float, ...] = (0.2, 0.7, 0.1)  # of enlarging, reducing, keeping
    resize_range: tuple[float, float] = (0.3, 1.5)
    gaussian_noise_prob: float = 0.5  # otherwise Poisson noise
    noise_range: tuple[float, float] = (1.0, 15.0)  # standard deviation in levels of 0 to 255
    poisson_scale_range: tuple[float, float] = (0.05, 2.0)  # factor on the noise
    gray_noise_prob: float = 0.4  # of noise that is equal in the three channels
    jpeg_range: tuple[float, float] = (60.0, 95.0)  # quality

    def mistakes(self) -> list[str]:
        """What is wrong with the values; empty if nothing is."""
        rules = {
            "kernel_prob": ("6 probabilities that sum to 1", lambda v: _is_distribution(v, 6)),
            "resize_prob": ("3 probabilities that sum to 1", lambda v: _is_distribution(v, 3)),
            "blur_sigma": ("low, high above 0", lambda v: _is_range(v, 0.01, 1000)),
            # The two halves of these, below and above 1, are drawn from apart.
            "betag_range": ("low, high around 1", lambda v: _is_range(v, 0.01, 1000, around=1)),
            "betap_range": ("low, high around 1", lambda v: _is_range(v, 0.01, 1000, around=1)),
            "resize_range": ("low, high around 1", lambda v: _is_range(v, 0.01, 100, around=1)),
            "noise_range": ("low, high in 0 to 255", lambda v: _is_range(v, 0, 255)),
            "poisson_scale_range": ("low, high from 0", lambda v: _is_range(v, 0, 1000)),
            "jpeg_range": ("low, high in 1 to 100", lambda v: _is_range(v, 1, 100)),
        }
        wrong = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            rule, holds = rules.get(field.name, ("a probability", lambda v: 0 <= v <= 1))
            if not holds(value):
                wrong.append(f"{field.name} = {value} must be {rule}")
        return wrong


@dataclasses.dataclass
class DegradationConfig:
    """Real-ESRGAN's second-order degradation; the defaults are the preset `MILD`.

    The colour jitter and the conversion to grey of the public settings, 0 in all of them, have no
    counterpart.

    Source: xinntao/Real-ESRGAN `options/train_realesrnet_x4plus.yml`, cswry/OSEDiff (STRONG);
      cswry/SeeSR, csslc/PiSA-SR (MILD).
    """

    scale: int = 4  # the low resolution has 1/scale of the pixels along each side
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)  # px, all equally likely
    first: DegradationPass = dataclasses.field(default_factory=DegradationPass)
    second: DegradationPass = dataclasses.field(
        default_factory=lambda: DegradationPass(
            blur_prob=0.5,
            blur_sigma=(0.2, 1.5),
            resize_prob=(0.3, 0.4, 0.3),
            resize_range=(0.6, 1.2),  # of the low resolution's size, whatever the first pass left
            noise_range=(1.0, 12.0),
            poisson_scale_range=(0.05, 1.0),
            jpeg_range=(60.0, 100.0),
        )
    )
    final_sinc_prob: float = 0.8
    jpeg_codec: str = "diffjpeg"  # the reference's arithmetic; or "libjpeg", as files are written

    # Two oddities of the reference, kept unless these are set:
    # The first resize samples at the drawn factor although the size is rounded down. The far edges
    # of the low resolution are shifted by 1 px of the high resolution on average. True: they fit.
    aligned_resize: bool = False
    # "area" repeats pixels when it enlarges: a third of the images that come back at the size of
    # the high resolution are blocky. True: bilinear instead.
    smooth_area_enlargement: bool = False

    def validate(self) -> None:
        """Checks every value.

        Raises:
          UserError: probabilities, ranges, kernel sizes or names that cannot be; tells all of them.
        """
        wrong = [
            f"{name}.{mistake}"
            for name in ("first", "second")
            for mistake in getattr(self, name).mistakes()
        ]
        if not self.kernel_sizes or any(n < 1 or n % 2 == 0 for n in self.kernel_sizes):
            wrong.append(f"kernel_sizes = {self.kernel_sizes} must be odd numbers")
        if self.scale < 1:
            wrong.append(f"scale = {self.scale} must be at least 1")
        if not 0 <= self.final_sinc_prob <= 1:
            wrong.append(f"final_sinc_prob = {self.final_sinc_prob} must be a probability")
        if self.jpeg_codec not in ("diffjpeg", "libjpeg"):
            wrong.append(f"jpeg_codec = {self.jpeg_codec} must be diffjpeg or libjpeg")
        if wrong:
            raise UserError(f"this degradation is not possible: {'; '.join(wrong)}.")


def _is_distribution(values: tuple[float, ...], count: int) -> bool:
    return len(values) == count and min(values) >= 0 and abs(sum(values) - 1) < 1e-6


def _is_range(
    values: tuple[float, float], low: float, high: float, around: float | None = None
) -> bool:
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        return False
    return around is None or values[0] <= around <= values[1]


# The public presets. Which of them the paper used is not known. They are shared: change a copy,
# `copy.deepcopy(STRONG)`.
MILD = DegradationConfig()
STRONG = DegradationConfig(
    first=DegradationPass(
        resize_range=(0.15, 1.5),
        noise_range=(1.0, 30.0),
        poisson_scale_range=(0.05, 3.0),
        jpeg_range=(30.0, 95.0),
    ),
    second=DegradationPass(
        blur_prob=0.8,
        blur_sigma=(0.2, 1.5),
        resize_prob=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        noise_range=(1.0, 25.0),
        poisson_scale_range=(0.05, 2.5),
        jpeg_range=(30.0, 95.0),
    ),
)
DEGRADATIONS = {"mild": MILD, "strong": STRONG}

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


# Public data sets of real pairs whose folders `tvt_jax.data.pairs` knows.
PAIR_LAYOUTS = ("realsr", "drealsr", "realce")


@dataclasses.dataclass
class DataConfig:
    """Where photographs come from, how they are cut and degraded, and who does it."""

    train: str = ""  # folders of photographs, or of shards by `prepare`; several with commas
    weights: tuple[float, ...] = ()  # share of the samples from each of them; (): by their sizes
    train_lr: str = ""  # folders of the real LR pictures of `train`, in the same order
    pairs: str = ""  # `train` holds real pairs in the layout of: realsr, drealsr, realce
    degradation: DegradationConfig | None = (
        None  # makes LR of pictures that have none; None: HR only
    )
    tokenizer: str = ""  # tokenizer folder; batches then have the tokens of the tags
    crop: int = 512  # side of the random square crops, px
    batch_size: int = 16  # of all devices together
    threads: int = 8  # that read, cut and flip beside the accelerator; all workers' together
    workers: int = 0  # processes that they run in; 0: in the process that trains
    prefetch: int = 2  # batches that are made ahead
    max_failed: float = 0.05  # share of unusable pictures from which on a run stops

    def validate(self) -> None:
        """Checks what can be checked without reading files; raises UserError."""
        positive = ("crop", "batch_size", "threads", "prefetch")
        wrong = [f"--config.data.{name}" for name in positive if getattr(self, name) <= 0]
        if wrong:
            raise UserError(f"{', '.join(wrong)} must be positive.")
        if self.workers < 0:
            raise UserError(f"--config.data.workers={self.workers} must not be negative.")
        if not 0 <= self.max_failed <= 1:
            raise UserError(f"--config.data.max_failed={self.max_failed} is not between 0 and 1.")
        folders = len([part for part in self.train.split(",") if part.strip()])
        if self.weights and (len(self.weights) != folders or min(self.weights) <= 0):
            raise UserError(
                f"--config.data.weights={self.weights} must be {folders} positive numbers, one for "
                "each folder of --config.data.train."
            )
        if self.pairs and self.train_lr:
            raise UserError("give either --config.data.pairs or --config.data.train_lr, not both.")
        if self.pairs and self.pairs not in PAIR_LAYOUTS:
            raise UserError(
                f"--config.data.pairs={self.pairs} is not one of {', '.join(PAIR_LAYOUTS)}."
            )
        if self.degradation is not None:
            self.degradation.validate()


@dataclasses.dataclass
class ValidationConfig:
    """Photographs that are measured while training, never trained on."""

    folder: str = ""  # empty: no validation
    every: int = 5000  # steps
    crop: int = 256  # side of the crop from the middle of each photograph, px
    lpips: bool = True  # also measure the perceptual distance; needs its weights
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
    lpips: str = ""  # folder of LPIPS's weights; empty: where `convert lpips` puts them
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
            "keep_checkpoints", "optim.learning_rate", "validation.every", "validation.crop",
        )  # fmt: skip
        wrong = [name for name in positive if self._field(name) <= 0]
        if wrong:
            raise UserError(f"{', '.join(f'--config.{name}' for name in wrong)} must be positive.")
        self.data.validate()
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
