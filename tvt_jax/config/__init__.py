# ruff: noqa: F401  (what the other packages import from here)
"""Typed settings of everything configurable: networks, degradation, training runs.

Standard library only, so that tools can read configurations without importing jax.
"""

from tvt_jax.config.degradation import (
    DEGRADATIONS,
    MILD,
    STRONG,
    DegradationConfig,
    DegradationPass,
)
from tvt_jax.config.networks import (
    DiscriminatorConfig,
    LoRAConfig,
    LPIPSConfig,
    SchedulerConfig,
    TaggerConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from tvt_jax.config.paper import (
    CE_UNET,
    LPIPS_NETS,
    PRUNED_UNET,
    QUALITY_WORDS,
    RAM_SWIN_LARGE,
    SD21_TEXT_ENCODER,
    SD21_UNET,
    UNETS,
    VAE_D4,
    VAE_D8,
    VAE_ENCODER_LORA,
    VAES,
)
from tvt_jax.config.restoration import (
    GENERATORS,
    NEGATIVE_PROMPT,
    TONE_SIDE,
    RestorationLossConfig,
    RestorationTrainConfig,
)
from tvt_jax.config.training import (
    PAIR_LAYOUTS,
    DataConfig,
    DiffusionTrainConfig,
    MeshConfig,
    OptimConfig,
    TrainConfig,
    VAELossConfig,
    VAETrainConfig,
    ValidationConfig,
)
from tvt_jax.config.variants import parse_variant, read_config
