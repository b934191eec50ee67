"""Bundling the small networks: all weights arrive, halved; what is too large is refused."""

import numpy as np
import pytest

from tvt_jax.bundled import SMALL_MODEL, SMALL_TEACHER, SMALL_UNET
from tvt_jax.conversion import bundle
from tvt_jax.errors import UserError
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.weights.model_folder import open_network, save_network


@pytest.fixture
def assets(tmp_path, monkeypatch):
    for name, folder in (("MODEL", SMALL_MODEL), ("TEACHER", SMALL_TEACHER), ("UNET", SMALL_UNET)):
        monkeypatch.setattr(bundle, f"SMALL_{name}", tmp_path / folder.name)
    monkeypatch.setattr(bundle, "ASSETS", tmp_path)
    return tmp_path


def test_all_weights_arrive(assets, tmp_path):
    bundle.bundle_small_model(SMALL_TEACHER, SMALL_UNET, SMALL_MODEL)
    parts = (("vae", SMALL_MODEL / "vae"), ("unet", SMALL_MODEL / "unet"), ("vae", SMALL_TEACHER))
    for kind, source in (*parts, ("unet", SMALL_UNET / "unet")):
        config, tensors = open_network(source, kind)
        other, copies = open_network(assets / source.relative_to(SMALL_MODEL.parent), kind)
        assert config == other and sorted(tensors) == sorted(copies)
        for name in tensors:
            assert copies[name].dtype == np.float16
            np.testing.assert_array_equal(copies[name], tensors[name])
    Upscaler.from_folder(assets / SMALL_MODEL.name)


def test_what_float16_cannot_hold_is_refused(assets, tmp_path):
    config, tensors = open_network(SMALL_TEACHER, "vae")
    changed = {name: np.asarray(tensors[name], np.float32) for name in tensors}
    changed["quant_conv.bias"] = np.full_like(changed["quant_conv.bias"], 7e4)
    save_network(tmp_path / "large", "vae", config, changed, "float32")
    with pytest.raises(UserError, match="beyond the range of float16: quant_conv.bias"):
        bundle.bundle_small_model(tmp_path / "large", None, None)


def test_too_many_bytes_are_refused(assets, monkeypatch):
    monkeypatch.setattr(bundle, "_MOST_BYTES", 1e6)
    with pytest.raises(UserError, match="more than 1 MB"):
        bundle.bundle_small_model(SMALL_TEACHER, None, None)
