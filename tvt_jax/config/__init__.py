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
    VAES,
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
    read_config,
)

__all__ = [
    "CE_UNET",
    "DEGRADATIONS",
    "DataConfig",
    "DegradationConfig",
    "DegradationPass",
    "DiffusionTrainConfig",
    "DiscriminatorConfig",
    "LPIPSConfig",
    "LPIPS_NETS",
    "LoRAConfig",
    "MILD",
    "MeshConfig",
    "OptimConfig",
    "PAIR_LAYOUTS",
    "PRUNED_UNET",
    "QUALITY_WORDS",
    "RAM_SWIN_LARGE",
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
    "ValidationConfig",
    "read_config",
]
