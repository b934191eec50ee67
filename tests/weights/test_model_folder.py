"""A trained generator becomes a model folder, adapters or not."""

import numpy as np
import pytest
import torch

from tests.support.small_sd import write_small_sd, write_small_vae
from tvt_jax.config import LoRAConfig
from tvt_jax.weights.adapters import ADAPTER_FILE, Adapters
from tvt_jax.weights.model_folder import open_network, write_trained_model

NONE = Adapters(LoRAConfig(0), {})


@pytest.mark.parametrize("merge", [True, False])
def test_a_generator_without_adapters_is_written_as_it_is(tmp_path, merge):
    torch.manual_seed(0)
    sd, model = tmp_path / "sd", tmp_path / "model"
    sd.mkdir()
    write_small_sd(sd)
    write_small_vae(tmp_path / "vae")
    unet, vae = open_network(sd / "unet", "unet"), open_network(tmp_path / "vae", "vae")

    write_trained_model(model, sd, (*unet, NONE), (*vae, NONE), merge)

    assert not (model / "unet" / ADAPTER_FILE).exists()
    for kind, (config, tensors) in (("unet", unet), ("vae", vae)):
        written_config, written = open_network(model / kind, kind)
        assert written_config == config and set(written) == set(tensors)
        for name in tensors:
            np.testing.assert_array_equal(written[name], tensors[name])
    assert (model / "model_index.json").is_file()
    assert (model / "text_encoder" / "config.json").is_file()
