"""A release in the authors' layout, with small random weights, and its PyTorch pipeline.

Everything is written by the libraries that the release uses (diffusers, transformers, peft,
torch.save), so what the converter reads here has the names and formats of the real files.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.support.small_tokenizer import write_tokenizer

GROUPS = 32
WIDTH = 32
CONTEXT = 48
UNET_OPTIONS = dict(
    cross_attention_dim=CONTEXT,
    use_linear_projection=True,
    norm_num_groups=GROUPS,
    sample_size=8,
)
LORA_WORDS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut",
    "conv_out", "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
TRAINED = (
    "lora", "down_blocks.0", "up_blocks.3.upsamplers.0", "up_blocks.4", "conv_in", "conv_out",
)  # fmt: skip


class _NoMidBlock(torch.nn.Module):
    def forward(self, sample, *_):
        return sample


def without_mid_blocks(vae: AutoencoderKL) -> AutoencoderKL:
    """Takes the middle sections out, in place."""
    vae.encoder.mid_block, vae.decoder.mid_block = _NoMidBlock(), _NoMidBlock()
    return vae


def vae_d4(widths=(32, 64, 64)) -> AutoencoderKL:
    """diffusers' VAE with its middle sections taken out."""
    levels = len(widths)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=GROUPS,
        mid_block_add_attention=False,
    )
    return randomise(without_mid_blocks(vae).eval())


def diffusers_vae(config: Mapping[str, Any]) -> AutoencoderKL:
    """A VAE of ours in diffusers, whose class has no VAE without middle sections.

    Args:
      config: of its config.json.
    """
    config = dict(config)
    assert config.pop("mid_block") is False and not config.pop("skip_connections")
    return without_mid_blocks(AutoencoderKL.from_config(config)).eval()


def load_diffusers_vae(folder: Path) -> AutoencoderKL:
    """The same with the weights of a folder."""
    import safetensors.torch

    vae = diffusers_vae(json.loads((folder / "config.json").read_text()))
    vae.load_state_dict(safetensors.torch.load_file(folder / "diffusion_pytorch_model.safetensors"))
    return vae.float()


def sd_unet() -> UNet2DConditionModel:
    return randomise(
        UNet2DConditionModel(
            block_out_channels=(WIDTH, 2 * WIDTH, 2 * WIDTH, 2 * WIDTH),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            attention_head_dim=(2, 4, 4, 4),
            **UNET_OPTIONS,
        ).eval()
    )


def ce_unet() -> UNet2DConditionModel:
    return randomise(
        UNet2DConditionModel(
            block_out_channels=(WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH, 2 * WIDTH),
            down_block_types=("CrossAttnDownBlock2D",) * 4 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 4,
            attention_head_dim=(2, 2, 4, 4, 4),
            **UNET_OPTIONS,
        ).eval()
    )


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Moves norms and biases off their initial ones and zeros, so that mixing them up shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@dataclasses.dataclass
class SmallRelease:
    """Paths of the files, and the networks in PyTorch with everything loaded and merged."""

    root: Path
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel

    @property
    def sd(self) -> Path:
        return self.root / "stable-diffusion-2-1-base"

    @property
    def tvt_unet(self) -> Path:
        return self.root / "ckp" / "TVTUNet"

    @property
    def vae_file(self) -> Path:
        return self.root / "ckp" / "vae.ckpt"

    @property
    def tvt_file(self) -> Path:
        return self.root / "ckp" / "model_TVT.pkl"

    def restore(self, image: np.ndarray, prompt: str) -> np.ndarray:
        """The release's forward pass in PyTorch, with the posterior's mean.

        Args:
          image: [H, W, 3] uint8, already enlarged. Returns [H, W, 3] float32 in [0, 1].
        """
        tokenizer = CLIPTokenizer.from_pretrained(self.sd / "tokenizer")
        tokens = tokenizer(
            prompt, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        scheduler = DDPMScheduler.from_pretrained(self.sd, subfolder="scheduler")
        scheduler.set_timesteps(timesteps=[1])
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        with torch.no_grad():
            context = self.text_encoder(tokens)[0]
            latent = self.vae.encode(pixels).latent_dist.mean * 0.18215
            noise = self.unet(latent, torch.tensor([1]), encoder_hidden_states=context).sample
            clean = scheduler.step(noise, 1, latent).prev_sample
            restored = self.vae.decode(clean / 0.18215).sample.clamp(-1, 1)
        return (restored[0] * 0.5 + 0.5).permute(1, 2, 0).numpy()


def write_small_release(root: Path, seed: int = 0) -> SmallRelease:
    """Writes the files and returns the PyTorch networks."""
    torch.manual_seed(seed)
    sd = root / "stable-diffusion-2-1-base"
    vocabulary = write_tokenizer(sd / "tokenizer")
    text_encoder = small_text_encoder(vocabulary, layers=3)
    text_encoder.save_pretrained(sd / "text_encoder")
    sd_unet().save_pretrained(sd / "unet")
    write_scheduler(sd)
    (sd / "model_index.json").write_text("{}")

    ckp = root / "ckp"
    vae = vae_d4()
    lightning = {f"vaeDe4.{k}": v for k, v in vae.state_dict().items()}
    # What the trainer also left in the file: the teacher, the losses, the discriminator.
    lightning["encoder.conv_in.weight"] = torch.randn(8, 3, 3, 3)
    lightning["loss.logvar"] = torch.zeros(())
    lightning["loss.discriminator.main.0.weight"] = torch.randn(8, 3, 4, 4)
    ckp.mkdir(parents=True)
    torch.save({"epoch": 3, "global_step": 100, "state_dict": lightning}, ckp / "vae.ckpt")

    unet = ce_unet()
    unet.save_pretrained(ckp / "TVTUNet" / "unet")
    content = train_unet(unet, rank=4)
    torch.save(content, ckp / "model_TVT.pkl")
    return SmallRelease(root, vae, unet, text_encoder)


def small_text_encoder(vocabulary: int, layers: int) -> CLIPTextModel:
    """A text encoder for the tokenizer of `small_tokenizer`."""
    return randomise(
        CLIPTextModel(
            CLIPTextConfig(
                hidden_size=CONTEXT,
                intermediate_size=96,
                num_hidden_layers=layers,
                num_attention_heads=4,
                hidden_act="gelu",
                vocab_size=vocabulary,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                pad_token_id=0,
            )
        ).eval()
    )


def write_scheduler(sd: Path) -> None:
    """Writes SD 2.1-base's noise schedule."""
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    ).save_pretrained(sd / "scheduler")


def train_unet(unet: UNet2DConditionModel, rank: int) -> dict:
    """Adds the release's three adapters, moves what it trains, returns `model_TVT.pkl`."""
    modules = {"encoder": [], "decoder": [], "others": []}
    for name, _ in unet.named_parameters():
        if "bias" in name or "norm" in name or not any(word in name for word in LORA_WORDS):
            continue
        layer = name.removesuffix(".weight")
        if "down_blocks" in name or "conv_in" in name:
            modules["encoder"].append(layer)
        elif "up_blocks" in name:
            modules["decoder"].append(layer)
        else:
            modules["others"].append(layer)
    for part, names in modules.items():
        config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=names)
        unet.add_adapter(config, adapter_name=f"default_{part}")
    unet.set_adapter([f"default_{part}" for part in modules])
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
            elif any(word in name for word in TRAINED) and "lora" not in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    state = unet.state_dict()
    return {
        **{f"unet_lora_{part}_modules": names for part, names in modules.items()},
        "rank_unet": rank,
        "state_dict_unet": {k: v for k, v in state.items() if any(word in k for word in TRAINED)},
    }
