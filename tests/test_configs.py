"""Every configuration resolves, and builds its networks without memory."""

import importlib.util
from pathlib import Path

import pytest

from tvt_jax.config import TrainConfig
from tvt_jax.weights.model_folder import abstract_network

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").rglob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_variants(path):
    module = load(path)
    for variant in ("", "tiny"):
        config = module.get_config(variant)
        assert isinstance(config, TrainConfig)
        abstract_network("vae", config.vae)
        if variant == "tiny":
            config.validate()
            assert Path(config.data.train).is_dir()
    assert "python -m tvt_jax.train --config configs/" in module.__doc__
    with pytest.raises(ValueError, match="unknown variant"):
        module.get_config("no_such_variant")


def test_the_papers_run_is_the_papers():
    config = load(ROOT / "configs" / "stage2.py").get_config()
    assert config.data.batch_size == 256 and config.data.crop == 512
    assert config.vae.block_out_channels == (128, 256, 256) and not config.vae.mid_block
    assert config.trained == ("encoder", "quant_conv")
