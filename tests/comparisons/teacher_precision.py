"""What 16-bit dtypes cost the teacher of stage 3: the error of its guided prediction.

    python -m tests.comparisons.teacher_precision

The bundled small teacher predicts the clean latents of the bundled photographs from their noised
ones, with guidance. The error is relative to what guidance moves, |guided - conditional|.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS, SMALL_TEACHER, SMALL_UNET
from tvt_jax.config import RestorationLossConfig
from tvt_jax.diffusion import add_noise, alphas_cumprod, predict_clean
from tvt_jax.images import read_image, to_float
from tvt_jax.weights.model_folder import load_network, read_scheduler_config
from tvt_jax.weights.prompt_embeds import load_prompt_embeds

SIDE = 128  # px; the small teacher learned from such crops


def main() -> None:
    """Prints a table in Markdown."""
    loss = RestorationLossConfig()
    vae = load_network(SMALL_TEACHER, "vae", jnp.float32, jnp.float32)
    images = [to_float(read_image(p)[:SIDE, :SIDE]) for p in sorted(HELDOUT_PHOTOGRAPHS.iterdir())]
    latents = vae(vae.params).encode(jnp.stack(images))[0] * vae.config.scaling_factor
    alpha_bar = jnp.asarray(alphas_cumprod(read_scheduler_config(SMALL_UNET)))
    embeds = load_prompt_embeds(SMALL_UNET)
    noise = np.random.default_rng(0).standard_normal(latents.shape).astype(np.float32)

    def predictions(dtype, timestep):
        """(guided, conditional) clean latents."""
        unet = load_network(SMALL_UNET / "unet", "unet", dtype, dtype)
        unet = nnx.merge(unet.graph, unet.params)
        noisy = add_noise(latents, noise, alpha_bar[timestep])
        times = jnp.full(len(noisy), timestep)

        def predict(context):
            return unet(noisy, times, jnp.repeat(jnp.asarray(context), len(noisy), axis=0))

        conditional = predict(embeds.prompt_embeds)
        without = predict(embeds.negative_prompt_embeds)
        guided = without + loss.guidance * (conditional - without)
        return [predict_clean(noisy, x, alpha_bar[timestep]) for x in (guided, conditional)]

    print("| timestep | bfloat16 | float16 |\n|---|---|---|")
    for timestep in (loss.min_timestep, 500, loss.max_timestep - 1):
        guided, conditional = predictions("float32", timestep)
        moved = jnp.linalg.norm(guided - conditional)
        errors = [
            float(jnp.linalg.norm(predictions(dtype, timestep)[0] - guided) / moved)
            for dtype in ("bfloat16", "float16")
        ]
        print(f"| {timestep} | " + " | ".join(f"{error:.1%}" for error in errors) + " |")


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    main()
