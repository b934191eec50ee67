"""What bfloat16 costs VAE and LPIPS, by the bundled model on the held-out photographs.

    python -m tests.comparisons.vae_precision

Restored images with the UNet alone in bfloat16, and with the VAE in bfloat16 too, beside those in
float32; and the gradient of stage 3's image loss at the decoder's latent.
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS, SMALL_MODEL
from tvt_jax.diffusion import ONE_STEP_TIMESTEP, alphas_cumprod
from tvt_jax.images import read_image
from tvt_jax.losses import restoration_loss
from tvt_jax.restoration import restore
from tvt_jax.text import load_text
from tvt_jax.weights.lpips import load_lpips
from tvt_jax.weights.model_folder import load_network, read_scheduler_config

_SIDE, _CROP = 192, 128  # px
FLOAT32, BFLOAT16 = jnp.float32, jnp.bfloat16


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """(middles of the photographs reduced to a quarter and enlarged, themselves), in [-1, 1]."""
    low, high = [], []
    for path in sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg")):
        image = read_image(path)
        top, left = ((side - _SIDE) // 2 for side in image.shape[:2])
        crop = Image.fromarray(image[top : top + _SIDE, left : left + _SIDE])
        small = crop.resize((_SIDE // 4,) * 2, Image.Resampling.BICUBIC)
        high.append(np.asarray(crop))
        low.append(np.asarray(small.resize((_SIDE,) * 2, Image.Resampling.BICUBIC)))
    return tuple(np.stack(images).astype(np.float32) / 127.5 - 1.0 for images in (low, high))


def psnr(images: np.ndarray, others: np.ndarray) -> str:
    """PSNR of each pair, dB."""
    errors = np.mean(np.square(images - others, dtype=np.float64), axis=(1, 2, 3))
    return ", ".join(f"{10 * np.log10(4.0 / error):.2f}" for error in errors)


def main() -> None:
    """Prints the figures."""
    low, high = photographs()
    vae, unet = (load_network(SMALL_MODEL / k, k, FLOAT32, FLOAT32) for k in ("vae", "unet"))
    context = jnp.asarray(load_text(SMALL_MODEL, FLOAT32).embed(None))
    context = jnp.broadcast_to(context, (len(low), *context.shape[1:]))
    alpha_bar = float(alphas_cumprod(read_scheduler_config(SMALL_MODEL))[ONE_STEP_TIMESTEP])
    scaling = vae.config.scaling_factor

    def restored(vae_dtype, unet_dtype):
        networks = vae.with_dtype(vae_dtype), unet.with_dtype(unet_dtype)

        def step(*params):
            modules = [network(p) for network, p in zip(networks, params, strict=True)]
            options = dict(scaling_factor=scaling, alpha_bar=alpha_bar)
            return restore(*modules, low, context, **options)[0]

        return np.clip(jax.jit(step)(vae.params, unet.params), -1.0, 1.0)

    exact, mixed, narrow = (
        restored(*dtypes)
        for dtypes in ((FLOAT32, FLOAT32), (FLOAT32, BFLOAT16), (BFLOAT16, BFLOAT16))
    )
    print(f"restored in float32, to the photographs: {psnr(exact, high)} dB", flush=True)
    for name, images in (("UNet", mixed), ("UNet and VAE", narrow)):
        print(f"{name} in bfloat16, to float32: {psnr(images, exact)} dB; "
              f"to the photographs: {psnr(images, high)} dB", flush=True)  # fmt: skip

    target = high[:, :_CROP, :_CROP]

    def gradient(dtype):
        networks = vae.with_dtype(dtype), load_lpips("vgg16", dtype=dtype)

        def loss(latent, vae_params, lpips_params):
            decoder, lpips = (
                n(p) for n, p in zip(networks, (vae_params, lpips_params), strict=True)
            )
            image = jnp.clip(decoder.decode(latent), -1.0, 1.0)
            return restoration_loss(image, target, lpips)[0]

        params = vae.params, networks[1].params
        return jax.jit(jax.value_and_grad(loss))(latents, *params)

    latents = jax.jit(lambda p: vae(p).encode(low[:, :_CROP, :_CROP])[0])(vae.params)
    (wanted, exact), (value, narrow) = gradient(FLOAT32), gradient(BFLOAT16)
    dots = [np.vdot(*pair) for pair in ((exact, narrow), (exact, exact), (narrow, narrow))]
    cosine, ratio = dots[0] / np.sqrt(dots[1] * dots[2]), np.sqrt(dots[2] / dots[1])
    print(
        f"image loss with LPIPS {wanted:.5f} in float32, {value:.5f} in bfloat16; their gradients' "
        f"cosine {cosine:.5f}, ratio of norms {ratio:.4f}"
    )


if __name__ == "__main__":
    main()
