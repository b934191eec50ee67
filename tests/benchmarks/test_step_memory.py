"""The bases of stage 3, shared and apart, without a TPU's compiler."""

from pathlib import Path

import jax
import pytest
import torch

from tests.support.small_sd import write_small_sd, write_small_vae
from tests.training.small_restoration import small_restoration
from tvt_jax.benchmarks.step_memory import _with_separate_bases, tpu_step_memory
from tvt_jax.config import read_config
from tvt_jax.errors import UserError
from tvt_jax.training.restoration import make_stage

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("vae", [None, "VAE-D5"])
def test_an_ablation_whose_vae_is_not_clear_must_name_it(vae):
    config = read_config(f"{ROOT}/configs/stage3.py:S4")
    with pytest.raises(UserError, match=f"--vae {vae} is not one of VAE-D8, .* S4 VAE-D4"):
        tpu_step_memory(config, "v5e:2x4", quick=True, vae=vae)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_separate_bases_hold_three_unets_and_compute_the_same(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "sd").mkdir()
    write_small_sd(tmp_path / "sd")
    write_small_vae(tmp_path / "vae")
    settings = small_restoration(tmp_path)
    stage = make_stage(settings)
    apart = _with_separate_bases(stage)
    # The generator's inner blocks are all of Stable Diffusion but its first and last convolution,
    # which the generator trains itself.
    unet = stage.frozen["sd"]
    trained = unet["conv_in"], unet["conv_out"]
    assert size(apart.frozen) == size(stage.frozen) + 2 * size(unet) - size(trained)
    image = jax.ShapeDtypeStruct((2, 48, 48, 3), "float32")
    batch = {"hr": image, "lr": image, "tokens": jax.ShapeDtypeStruct((2, 77), "int32")}
    key = jax.eval_shape(lambda: jax.random.key(0))
    shared, separate = (
        jax.make_jaxpr(s.gradients)(s.params, s.frozen, batch, key, 0) for s in (stage, apart)
    )
    # The same computation on other arguments.
    assert len(shared.eqns) == len(separate.eqns)
    assert [v.aval for v in shared.jaxpr.outvars] == [v.aval for v in separate.jaxpr.outvars]
