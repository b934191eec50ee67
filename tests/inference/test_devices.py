"""One image over many devices is what one device makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.test_upscaler import picture
from tvt_jax.errors import UserError
from tvt_jax.images import write_image
from tvt_jax.infer import infer

ROOT = Path(__file__).parent.parent.parent
ON_EIGHT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
from tests.inference.test_upscaler import picture
from tvt_jax.config import SchedulerConfig, UNetConfig, VAEConfig
from tvt_jax.inference import upscaler as module
from tvt_jax.inference.loading import Model
from tvt_jax.models import attention
from tvt_jax.models.networks import init_network
from tvt_jax.text import Text

layers = dict(layers_per_block=1, norm_num_groups=4)
vae = init_network("vae", VAEConfig(block_out_channels=(8, 8, 8), mid_block=False, **layers), 0)
unet = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=8,
    attention_head_dim=2,
    **layers,
)
text = Text(np.ones((1, 3, 8), np.float32), lambda params, tokens: params, 8)
model = Model(vae, init_network("unet", unet, 1), text, SchedulerConfig(), None)
module.load_model = lambda *arguments: model
one, eight = (module.Upscaler.from_folder(devices=d) for d in (None, jax.devices()))

def check(image, **options):
    want, got = (u.restore(image, color_fix="none", **options) for u in (one, eight))
    assert want.std() > 0.01 and np.abs(got - want).max() < 1e-5, np.abs(got - want).max()
    programs = [u._whole_programs._compiled.popitem()[1] for u in (one, eight)]
    flops = [program.cost_analysis()["flops"] for program in programs]
    return flops[1] / flops[0]

share = check(picture(128, 64))
assert share < 0.25, share
attention._PLAIN_SCORES = 64  # by blocks from here on
check(picture(88, 64), posterior="sample")  # 22 rows of latents, 11 below
copy = eight._copies[3]._vae.params  # for lists of images; it takes no memory of its own
for mine, whole in zip(*map(jax.tree.leaves, (copy, eight._vae.params)), strict=True):
    shard = next(s.data for s in whole.addressable_shards if s.device == jax.devices()[3])
    assert mine.devices() == {jax.devices()[3]}
    assert mine.unsafe_buffer_pointer() == shard.unsafe_buffer_pointer()
"""


def test_eight_devices_make_what_one_does():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", ON_EIGHT], cwd=ROOT, env=environment, check=True)


def test_more_devices_than_there_are(tmp_path):
    write_image(tmp_path / "a.png", picture(16, 16))
    with pytest.raises(UserError, match="`devices` 3: there are 1"):
        infer([tmp_path / "a.png"], tmp_path / "b.png", devices=3)
