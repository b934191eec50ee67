"""Stage 3 in PyTorch: one-step restoration with VSD, from its description, by diffusers and peft.

The reference for the training step here, for what it computes and for how fast. It shares no code
with the package: the losses follow OSEDiff (arXiv 2406.08177, github.com/cswry/OSEDiff), the
trained parts, the tiles and the shape of the UNet follow TVT. Networks come from
`tests.support.small_release`. Everything runs on the networks' own device and in their own dtype,
so that `double()` on them gives a float64 reference.
"""

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch.nn.functional import mse_loss

from tests.support.parity import nchw

FULL_PARTS = ("down_blocks.0", "up_blocks.3.upsamplers.0", "up_blocks.4", "conv_in", "conv_out")
VAE_LORA_WORDS = ("conv", "to_k", "to_q", "to_v", "to_out.0")
LORA_ALPHA = 8
Arrays = dict[str, np.ndarray]
Metrics = dict[str, float]


def replicated(sd: UNet2DConditionModel) -> UNet2DConditionModel:
    """The compute-efficient UNet made of SD's: one more level above, copied from the first.

    The new upsampler passes its input through: its convolution is the identity.
    """
    config = dict(sd.config)

    def first_twice(value):
        return value if isinstance(value, int) else (value[0], *value)

    config.update(
        block_out_channels=first_twice(config["block_out_channels"]),
        attention_head_dim=first_twice(config["attention_head_dim"]),
        down_block_types=first_twice(config["down_block_types"]),
        up_block_types=(*config["up_block_types"], config["up_block_types"][-1]),
        sample_size=config["sample_size"] and 2 * config["sample_size"],
    )
    unet = UNet2DConditionModel.from_config(config)

    def give(new, old):  # strict: names and shapes agree both ways
        new.load_state_dict(old if isinstance(old, dict) else old.state_dict())

    for name in ("conv_in", "time_embedding", "mid_block", "conv_norm_out", "conv_out"):
        give(unet.get_submodule(name), sd.get_submodule(name))
    for new, old in zip(unet.down_blocks, (sd.down_blocks[0], *sd.down_blocks), strict=True):
        give(new, old)
    for new, old in zip(unet.up_blocks[:-2], sd.up_blocks[:-1], strict=True):
        give(new, old)
    upsampler, top = unet.up_blocks[-2].upsamplers[0].conv, sd.up_blocks[-1].state_dict()
    torch.nn.init.dirac_(upsampler.weight)
    torch.nn.init.zeros_(upsampler.bias)
    identity = {f"upsamplers.0.conv.{k}": v for k, v in upsampler.state_dict().items()}
    give(unet.up_blocks[-2], {**top, **identity})
    # SD's first ResNet block takes a wider input here; the second has the shape and the role.
    second = {name: v for name, v in top.items() if name.startswith("resnets.1.")}
    first = {name.replace("resnets.1.", "resnets.0."): v for name, v in second.items()}
    give(unet.up_blocks[-1], {**top, **first})
    return unet.to(sd.dtype).eval()


def lora_part(layer: str) -> str:
    """Which of the UNet's three adapters a layer belongs to."""
    if "down_blocks" in layer or "conv_in" in layer:
        return "encoder"
    return "decoder" if "up_blocks" in layer else "others"


def add_adapters(
    unet: UNet2DConditionModel, words: Sequence[str], rank: int
) -> UNet2DConditionModel:
    """Gives every layer with one of the words in its name an adapter, in place.

    A is drawn from torch's global generator, B is zero.
    """
    layers: dict[str, list[str]] = {}
    for layer in _layers_with(unet, words):
        layers.setdefault(lora_part(layer), []).append(layer)
    return _adapt(unet, layers, rank)


def add_vae_adapters(vae: AutoencoderKL, rank: int) -> AutoencoderKL:
    """OSEDiff's adapter of the VAE (ablation S1): the encoder's layers and `quant_conv`."""
    layers = _layers_with(vae, VAE_LORA_WORDS)
    chosen = [layer for layer in layers if "encoder" in layer or layer == "quant_conv"]
    return _adapt(vae, {"encoder": chosen}, rank)


def _layers_with(network: torch.nn.Module, words: Sequence[str]) -> list[str]:
    names = [name for name, _ in network.named_parameters()]
    names = [name for name in names if "bias" not in name and "norm" not in name]
    return [n.removesuffix(".weight") for n in names if any(word in n for word in words)]


def _adapt(network, layers: Mapping[str, list[str]], rank: int):
    for part, targets in layers.items():
        config = LoraConfig(
            r=rank, lora_alpha=LORA_ALPHA, init_lora_weights="gaussian", target_modules=targets
        )
        network.add_adapter(config, adapter_name=f"default_{part}")
    network.set_adapter([f"default_{part}" for part in layers])
    return network


def move_adapters(network: torch.nn.Module, scale: float = 0.02, seed: int = 0) -> None:
    """Draws every B from N(0, scale^2), in place: with B zero, A has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def plain_name(name: str) -> str:
    """peft's name of a parameter without what peft puts in.

    `a.base_layer.weight` -> `a.weight`, `a.lora_A.default_encoder.weight` -> `a.lora_A`.
    """
    name = name.replace(".base_layer.", ".")
    return re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1", name)


@functools.cache
def sd_schedule() -> DDPMScheduler:
    """SD's noise schedule, 1000 steps."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )


@dataclasses.dataclass(frozen=True)
class RestorationSettings:
    """Numbers of a run; the defaults are the release's."""

    full_parts: tuple[str, ...] = FULL_PARTS  # of the generator, trained whole: module names
    # The release gives the critic three adapters, and the last one stays the only active one.
    critic_adapters: tuple[str, ...] = ("others",)
    patch: int = 64  # side of the tiles that teacher and critic see, latent pixels
    guidance: float = 7.5
    l2_weight: float = 1.0
    lpips_weight: float = 2.0
    vsd_weight: float = 1.0
    scaling_factor: float = 0.18215
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    clip_norm: float | None = 1.0  # of all the generator's gradients, and of all the critic's
    autocast: bool = False  # the UNets compute in bfloat16


@dataclasses.dataclass(frozen=True)
class Batch:
    """The arguments of `TorchRestoration.gradients` as tensors; images as [N, C, H, W]."""

    lr: torch.Tensor
    hr: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor  # [B, T, D]
    posterior: torch.Tensor | None
    vsd_timesteps: torch.Tensor
    vsd_noise: torch.Tensor
    critic_timesteps: torch.Tensor
    critic_noise: torch.Tensor


@dataclasses.dataclass
class TorchRestoration:
    """The networks of stage 3, their losses, gradients and steps.

    Generator and critic come with their adapters, the VAE where it has any. What trains is set
    here: all adapters, and the generator's full parts. `lpips` maps two batches [B, 3, H, W] in
    [-1, 1] to distances.

    Choose sizes with 2x2 pixels or more at the deepest level of all the UNets: self-attention over
    one pixel has no gradient in its queries and keys but rounding errors, which Adam magnifies.
    Set `torch.set_num_threads(1)` on a busy machine: the many small layers wait for threads.
    """

    teacher: UNet2DConditionModel
    critic: UNet2DConditionModel
    generator: UNet2DConditionModel
    vae: AutoencoderKL
    lpips: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    settings: RestorationSettings = RestorationSettings()

    @classmethod
    def from_sd(
        cls, sd: UNet2DConditionModel, vae: AutoencoderKL, lpips, settings, words, rank: int
    ) -> "TorchRestoration":
        """A fresh run: copies of SD's UNet are teacher and critic, the larger one generates."""
        generator = add_adapters(replicated(sd), words, rank)
        critic = add_adapters(copy.deepcopy(sd), words, rank)
        return cls(copy.deepcopy(sd), critic, generator, vae, lpips, settings)

    def __post_init__(self):
        parts = self.settings.full_parts
        self.critic.set_adapter([f"default_{part}" for part in self.settings.critic_adapters])
        self.trained = {"generator": {}, "critic": {}}
        self.teacher.eval().requires_grad_(False)
        for kind, prefix, network, full in (
            ("generator", "unet.", self.generator, parts),
            ("generator", "vae.", self.vae, ()),
            ("critic", "", self.critic, ()),
        ):
            network.eval().requires_grad_(False)
            for name, parameter in network.named_parameters():
                plain = plain_name(name)
                if kind == "critic" and lora_part(plain) not in self.settings.critic_adapters:
                    continue
                if ".lora_" in name or _is_of(plain, full):
                    self.trained[kind][prefix + plain] = parameter.requires_grad_(True)
        for part in parts:
            assert any(_is_of(name, ("unet." + part,)) for name in self.trained["generator"]), part
        s = self.settings
        options = dict(
            lr=s.learning_rate, betas=s.betas, eps=s.epsilon, weight_decay=s.weight_decay
        )
        self.optimizers = {
            kind: torch.optim.AdamW(parameters.values(), **options)
            for kind, parameters in self.trained.items()
        }

    def gradients(self, lr, hr, positive, negative, draws) -> tuple[Metrics, Arrays, Arrays]:
        """Metrics, the generator's gradients of `loss` and the critic's of `critic`, unclipped.

        Args:
          lr, hr: [B, H, W, 3] float32 in [-1, 1], of one size.
          positive: [B, T, D] the prompts' embeddings. negative: [1, T, D] or [B, T, D].
          draws: the random inputs, for N = B * tiles, tiles of a sample together, row by row:
            `posterior` [B, h, w, C] standard normal, or None for the posterior's mean;
            `vsd_timesteps`, `critic_timesteps` [N] integers; `vsd_noise`, `critic_noise`
            [N, patch, patch, C] standard normal.

        Metrics: `l2`, `lpips`, `vsd` unweighted, `loss` their weighted sum (the generator's),
        `critic`. Arrays have PyTorch's layout. Names: `unet.conv_in.weight`,
        `unet.conv_in.lora_A`, `vae.quant_conv.lora_B`; the critic's without prefix.
        """
        batch = self.on_device(lr, hr, positive, negative, draws)
        metrics, gradients = self._backward(batch)
        return (
            _as_numbers(metrics),
            _as_arrays(gradients["generator"]),
            _as_arrays(gradients["critic"]),
        )

    def step(self, lr, hr, positive, negative, draws) -> Metrics:
        """One AdamW update of both, each by its gradients before the update; returns metrics."""
        batch = self.on_device(lr, hr, positive, negative, draws)
        return _as_numbers(self.step_on_device(batch))

    def on_device(self, lr, hr, positive, negative, draws) -> Batch:
        """The arguments of `gradients` as tensors where the networks are."""

        def image(array):
            return None if array is None else nchw(np.asarray(array)).to(unet.device, unet.dtype)

        def text(array):
            return torch.from_numpy(np.array(array)).to(unet.device, unet.dtype)

        def steps(array):
            return torch.from_numpy(np.array(array, np.int64)).to(unet.device)

        unet = self.generator
        lr, hr, positive, negative = image(lr), image(hr), text(positive), text(negative)
        return Batch(
            lr=lr,
            hr=hr,
            positive=positive,
            negative=negative.expand(len(lr), -1, -1),
            posterior=image(draws["posterior"]),
            vsd_timesteps=steps(draws["vsd_timesteps"]),
            vsd_noise=image(draws["vsd_noise"]),
            critic_timesteps=steps(draws["critic_timesteps"]),
            critic_noise=image(draws["critic_noise"]),
        )

    def step_on_device(self, batch: Batch) -> dict[str, torch.Tensor]:
        """`step` with what `on_device` returns; waits for nothing."""
        metrics, gradients = self._backward(batch)
        for kind, optimizer in self.optimizers.items():
            parameters = self.trained[kind]
            for name, gradient in gradients[kind].items():
                parameters[name].grad = gradient
            if self.settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters.values(), self.settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        return metrics

    def parameters(self) -> tuple[Arrays, Arrays]:
        """Copies of the trained parameters, the generator's and the critic's, named as there."""
        return _as_arrays(self.trained["generator"]), _as_arrays(self.trained["critic"])

    def _backward(self, batch: Batch):
        # One after the other, so that what the first backward pass needs is gone in the second.
        parts, tiles = self._generator_losses(batch)
        gradients = {"generator": self._gradients("generator", parts["loss"])}
        parts["critic"] = self._critic_loss(batch, tiles)
        gradients["critic"] = self._gradients("critic", parts["critic"])
        return {name: value.detach() for name, value in parts.items()}, gradients

    def _gradients(self, kind: str, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        parameters = self.trained[kind]
        values = torch.autograd.grad(loss, list(parameters.values()))
        return dict(zip(parameters, values, strict=True))

    def _generator_losses(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(the generator's losses, the tiles of what it made, without their history)."""
        s = self.settings
        posterior = self.vae.encode(batch.lr).latent_dist
        latents = posterior.mean
        if batch.posterior is not None:
            latents = latents + posterior.std * batch.posterior
        latents = latents * s.scaling_factor
        first = torch.ones(len(latents), dtype=torch.long, device=latents.device)
        noise = self._predict(self.generator, latents, first, batch.positive)
        clean = _clean(latents, noise, first)
        output = self.vae.decode(clean / s.scaling_factor).sample.clamp(-1, 1)
        tiles = self._tiles(clean)
        parts = {
            "l2": mse_loss(output, batch.hr),
            "lpips": self.lpips(output, batch.hr).mean(),
            "vsd": self._vsd(tiles, batch),
        }
        parts["loss"] = (
            s.l2_weight * parts["l2"]
            + s.lpips_weight * parts["lpips"]
            + s.vsd_weight * parts["vsd"]
        )
        return parts, tiles.detach()

    def _critic_loss(self, batch: Batch, tiles: torch.Tensor) -> torch.Tensor:
        steps, added = batch.critic_timesteps, batch.critic_noise
        noisy = sd_schedule().add_noise(tiles, added, steps)
        prompts = _for_tiles(batch.positive, tiles)
        return mse_loss(self._predict(self.critic, noisy, steps, prompts), added)

    def _vsd(self, tiles: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Variational score distillation, with its gradient (fake - real) / w by way of an MSE."""
        steps = batch.vsd_timesteps
        with torch.no_grad():
            positive, negative = (_for_tiles(x, tiles) for x in (batch.positive, batch.negative))
            noisy = sd_schedule().add_noise(tiles, batch.vsd_noise, steps)
            fake = self._predict(self.critic, noisy, steps, positive)
            with_prompt = self._predict(self.teacher, noisy, steps, positive)
            without = self._predict(self.teacher, noisy, steps, negative)
            real = without + self.settings.guidance * (with_prompt - without)
            fake, real = _clean(noisy, fake, steps), _clean(noisy, real, steps)
            weight = (tiles - real).abs().mean(dim=(1, 2, 3), keepdim=True)
            target = tiles - (fake - real) / weight
        return mse_loss(tiles, target)

    def _predict(self, unet, latents, steps, prompts) -> torch.Tensor:
        """The noise in latents [N, C, h, w], in their dtype."""
        with torch.autocast(latents.device.type, torch.bfloat16, self.settings.autocast):
            return unet(latents, steps, encoder_hidden_states=prompts).sample.to(latents.dtype)

    def _tiles(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [N, C, patch, patch]: sample by sample, row by row."""
        side = self.settings.patch
        batch, channels, height, width = latents.shape
        assert height % side == 0 and width % side == 0, (height, width, side)
        grid = latents.reshape(batch, channels, height // side, side, width // side, side)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)


def _for_tiles(prompts: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """[B, T, D] to [N, T, D], tiles of a sample together."""
    return prompts.repeat_interleave(len(tiles) // len(prompts), 0)


def _clean(noisy: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """x0 of x_t and the noise predicted at steps [B]."""
    kept = sd_schedule().alphas_cumprod.to(noisy)[steps][:, None, None, None]
    return (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()


def _is_of(name: str, parts: Sequence[str]) -> bool:
    return any(name.startswith(part + ".") for part in parts)


def _as_numbers(metrics: Mapping[str, torch.Tensor]) -> Metrics:
    return {name: float(value) for name, value in metrics.items()}


def _as_arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
