"""The networks of the paper and of its release, by name, and the release's fixed words."""

import dataclasses

from tvt_jax.config.networks import (
    LoRAConfig,
    LPIPSConfig,
    TaggerConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)

# What the release puts after the tags of an image, in training and at inference.
QUALITY_WORDS = "clean, high-resolution, 8k"

# The paper's networks, under the paper's names.
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
# The adapters of a VAE's encoder in OSEDiff, the setting of ablation S1.
VAE_ENCODER_LORA = LoRAConfig(
    targets=("conv", "to_k", "to_q", "to_v", "to_out.0"),
    excluded=("norm", "decoder", "post_quant_conv"),
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
