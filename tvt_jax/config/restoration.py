"""Settings of stage 3: real-world super-resolution in one step of diffusion."""

import dataclasses

from tvt_jax.config.training import SD21, OptimConfig, TrainConfig, may_change
from tvt_jax.errors import UserError

TONE_SIDE = 16  # px a side of the squares whose means `loss.tone` compares
# How the generator's UNet is derived from Stable Diffusion's.
GENERATORS = ("replicated", "same", "pruned")
NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, "
    "3D render, unreal engine, blurring, dirty, messy, worst quality, low quality, frames, "
    "watermark, signature, jpeg artifacts, deformed, lowres, over-smooth"
)


@dataclasses.dataclass
class RestorationLossConfig:
    """Weights of the generator's loss terms, and how the teacher scores latents.

    A term of weight 0 is not computed; without VSD there is no critic.
    """

    l2: float = 1.0  # mean squared error of the image
    tone: float = 0.0  # mean absolute error of means over `TONE_SIDE`, against drifting tones
    lpips: float = 2.0
    # Side of the part that LPIPS compares, drawn anew each step, px; 0: the whole crop.
    lpips_crop: int = 0
    vsd: float = 1.0  # variational score distillation
    # The teacher works at the latent size that it was trained at and sees larger latents as
    # patches: the four quadrants of a 512 px image under VAE-D4.
    patch: int = 64  # side of a patch, latent px; divides the latent's sides
    # Patches scored at a time, over all devices and a multiple of their number: fewer take less
    # memory. 0: all.
    patches_at_once: int = may_change(0)
    min_timestep: int = 250  # of the noise added before scoring
    max_timestep: int = 750  # exclusive
    guidance: float = 7.5  # classifier-free guidance of the teacher, away from the negative prompt
    negative_prompt: str = NEGATIVE_PROMPT


@dataclasses.dataclass(kw_only=True)
class RestorationTrainConfig(TrainConfig):
    """Stage 3: the generator learns to restore, guided by a teacher and a critic.

    All three share the weights of one Stable Diffusion UNet; the generator has its own layers for
    the doubled resolution, and generator and critic their own low-rank adapters.
    """

    sd: str = may_change("")  # Stable Diffusion 2.1-base: a diffusers folder
    vae: str = may_change("")  # VAE folder, or a model folder
    # Folder of the generator's initial UNet; empty: derived from the one in `sd`.
    unet: str = may_change("")
    generator: str = "replicated"  # "replicated" (CE-UNet), "same" or "pruned"
    # Parts of the generator's UNet that are trained in full; the rest only through adapters.
    trained: tuple[str, ...] = ()
    vae_trained: tuple[str, ...] = ()  # parts of the VAE that are trained in full; paper: none
    lora_rank: int = 4  # of the adapters of the generator's UNet; 0: none
    vae_lora_rank: int = 0  # of adapters of the VAE's encoder; 0: none
    critic_lora_rank: int = 4
    # Parts of the critic's UNet that get adapters; empty: all. The release adds them everywhere but
    # only ever trains those of these two.
    critic_lora_parts: tuple[str, ...] = ("mid_block", "conv_out")
    # The VAE has more latent channels than Stable Diffusion's, interpolated from them (S3).
    interpolated_latents: bool = False
    sample_posterior: bool = True  # of the VAE's encoder, as the release does; else its mean
    loss: RestorationLossConfig = dataclasses.field(default_factory=RestorationLossConfig)
    critic_optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    # Keep the adapters in a file of their own instead of merging them into the result.
    adapters: bool = may_change(False)

    def validate(self) -> None:
        """Checks what can be checked without reading files; see the base class."""
        super().validate()
        loss = self.loss
        if self.generator not in GENERATORS:
            raise UserError(
                f"`config.generator={self.generator}` is not one of {', '.join(GENERATORS)}."
            )
        for name in ("lora_rank", "vae_lora_rank"):
            if getattr(self, name) < 0:
                raise UserError(f"`config.{name}` must not be negative.")
        if not (self.lora_rank or self.vae_lora_rank or self.trained or self.vae_trained):
            raise UserError(
                "`config.trained` and `config.vae_trained` are empty and there are no adapters: "
                "nothing learns."
            )
        if min(loss.l2, loss.tone, loss.lpips, loss.vsd, loss.patches_at_once) < 0:
            raise UserError("`config.loss`: weights and patches_at_once must not be negative.")
        if not (loss.l2 or loss.tone or loss.lpips or loss.vsd):
            raise UserError("`config.loss`: at least one weight must be positive.")
        if loss.tone and self.data.crop % TONE_SIDE:
            raise UserError(
                f"`config.data.crop={self.data.crop}` is not a multiple of {TONE_SIDE}, which "
                "`config.loss.tone` needs."
            )
        if not 0 <= loss.lpips_crop <= self.data.crop:
            raise UserError(
                f"`config.loss.lpips_crop={loss.lpips_crop}` is not between 0 and "
                f"`config.data.crop={self.data.crop}`."
            )
        if loss.vsd:
            if loss.patch <= 0 or self.critic_lora_rank <= 0:
                raise UserError(
                    "`config.loss.patch` and `config.critic_lora_rank` are not positive."
                )
            if not 0 <= loss.min_timestep < loss.max_timestep:
                raise UserError(
                    f"`config.loss.min_timestep={loss.min_timestep}` must be below "
                    f"`config.loss.max_timestep={loss.max_timestep}`."
                )
            self.critic_optim.validate("config.critic_optim")

    def needs(self) -> dict[str, str]:
        """See the base class."""
        vae = "the VAE that stage 2 trained, runs/stage2/model/vae"
        return {**super().needs(), "sd": SD21, "vae": vae}
