"""Settings of the networks, which mirror the `config.json` of a diffusers folder, key by key."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from tvt_jax.errors import UserError


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
        """Builds the configuration; other keys of transformers are ignored."""
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
    """The noise schedule: the part of a `scheduler_config.json` that one-step restoration needs."""

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
        """Builds the configuration; keys of multi-step samplers are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return super().from_json({k: v for k, v in values.items() if k in names}, source)

    @classmethod
    def _header(cls) -> dict[str, Any]:
        return {"_class_name": "DDPMScheduler", "clip_sample": False}


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig(_NetworkConfig):
    """A PatchGAN discriminator; the defaults see patches of 70 px and have 2.77 M parameters."""

    in_channels: int = 3
    base_channels: int = 64  # of the first convolution; doubled by each further one, up to 8 times
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
      parts: dotted prefixes of the layers that may get one; empty: all.
    """

    rank: int = 4
    alpha: float = 8.0
    targets: tuple[str, ...] = (
        "to_k", "to_q", "to_v", "to_out.0", "conv", "proj_in", "proj_out", "ff.net.0.proj",
        "ff.net.2",
    )  # fmt: skip
    excluded: tuple[str, ...] = ("norm",)
    parts: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """Factor on the product of the two adapter matrices; 0 without adapters."""
        return self.alpha / self.rank if self.rank else 0.0


def _check_groups(widths: tuple[int, ...], groups: int) -> None:
    for width in widths:
        if width % groups:
            raise ValueError(f"{width} channels cannot be split over {groups} norm groups")
