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
    RestorationLossConfig,
    RestorationTrainConfig,
)
from tvt_jax.config.training import (
    PAIR_LAYOUTS,
    DataConfig,
    MeshConfig,
    OptimConfig,
    TrainConfig,
    VAELossConfig,
    VAETrainConfig,
    ValidationConfig,
    read_config,
)

__all__ = [
    "CE_UNET",
    "DEGRADATIONS",
    "DataConfig",
    "DegradationConfig",
    "DegradationPass",
    "DiscriminatorConfig",
    "GENERATORS",
    "LPIPSConfig",
    "LPIPS_NETS",
    "LoRAConfig",
    "MILD",
    "MeshConfig",
    "NEGATIVE_PROMPT",
    "OptimConfig",
    "PAIR_LAYOUTS",
    "PRUNED_UNET",
    "QUALITY_WORDS",
    "RAM_SWIN_LARGE",
    "RestorationLossConfig",
    "RestorationTrainConfig",
    "SD21_TEXT_ENCODER",
    "SD21_UNET",
    "STRONG",
    "SchedulerConfig",
    "TaggerConfig",
    "TextEncoderConfig",
    "TrainConfig",
    "UNETS",
    "UNetConfig",
    "VAEConfig",
    "VAELossConfig",
    "VAES",
    "VAETrainConfig",
    "VAE_D4",
    "VAE_D8",
    "VAE_ENCODER_LORA",
    "ValidationConfig",
    "read_config",
]
