"""VAE and UNet that compile in a second."""

from tvt_jax.config import UNetConfig, VAEConfig
from tvt_jax.models.networks import Network, init_network

SMALL_VAE = VAEConfig(
    block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, mid_block=False
)
SMALL_UNET = UNetConfig(
    block_out_channels=(8, 8),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=8,
    attention_head_dim=(1, 1),
    layers_per_block=1,
    norm_num_groups=4,
)


def small_networks(dtype: str = "float32") -> tuple[Network, Network]:
    """The VAE in float32 and the UNet in another dtype."""
    unet = init_network("unet", SMALL_UNET, seed=0).with_dtype(dtype)
    return init_network("vae", SMALL_VAE, seed=0), unet
