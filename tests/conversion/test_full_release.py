"""The release at full size: its conversion fits the memory of a common machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tvt_jax.config import CE_UNET
from tvt_jax.weights.model_folder import read_network_config

ROOT = Path(__file__).parent.parent.parent
LIMIT_GIB = 16

# In processes of their own: PyTorch's networks must not count towards the converter's memory.
WRITE = """
import sys
from pathlib import Path
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from tests.support.small_release import train_unet, vae_d4, write_scheduler
from tests.support.small_tokenizer import write_tokenizer
from tvt_jax.config import CE_UNET, SD21_TEXT_ENCODER, VAE_D4, VAE_D8

root = Path(sys.argv[1])
ckp = root / "ckp"
ckp.mkdir()
write_tokenizer(root / "sd" / "tokenizer")
write_scheduler(root / "sd")

def empty(make):
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu")
    for parameter in module.parameters():
        parameter.data.zero_()
    return module

text = empty(lambda: CLIPTextModel(CLIPTextConfig(**SD21_TEXT_ENCODER.to_json())))
text.save_pretrained(root / "sd" / "text_encoder")
del text
state = {f"vaeDe4.{k}": v for k, v in vae_d4(VAE_D4.block_out_channels).state_dict().items()}
state["encoder.conv_in.weight"] = torch.zeros(90_000_000)  # about the size of what is ignored
torch.save({"state_dict": state}, ckp / "vae.ckpt")
options = {k: v for k, v in CE_UNET.to_json().items() if not k.startswith("_")}
unet = empty(lambda: UNet2DConditionModel(**options))
unet.save_pretrained(ckp / "TVTUNet" / "unet")
torch.save(train_unet(unet, rank=4), ckp / "model_TVT.pkl")
"""
CONVERT = """
import json, resource, sys, time
from pathlib import Path
from tvt_jax.conversion.official import convert_official
root, start = Path(sys.argv[1]), time.perf_counter()
convert_official(
    root / "sd", root / "ckp" / "vae.ckpt", root / "model", root / "ckp" / "TVTUNet",
    root / "ckp" / "model_TVT.pkl", report=lambda line: None,
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": time.perf_counter() - start, "peak_gib": peak}))
"""


@pytest.mark.slow
def test_conversion_fits_in_16_gib(tmp_path):
    """Writes 5 GB of files and reads them back; prints time and peak memory."""
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path)], check=True, cwd=ROOT)
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, str(tmp_path)], check=True, cwd=ROOT,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"converted in {measured['seconds']:.0f} s, peak {measured['peak_gib']:.1f} GiB")
    assert measured["peak_gib"] < LIMIT_GIB
    model = tmp_path / "model"
    assert read_network_config(model / "unet", "unet") == CE_UNET
    size = (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size > 4 * 895_000_000
