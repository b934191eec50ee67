"""Every configuration resolves, builds its networks without memory, and is the paper's."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from tvt_jax.config import (
    CE_UNET,
    SD21_UNET,
    VAES,
    DiffusionTrainConfig,
    LoRAConfig,
    RestorationTrainConfig,
    VAETrainConfig,
    parse_variant,
)
from tvt_jax.conversion.replication import replicated_config
from tvt_jax.errors import UserError
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lora import add_lora
from tvt_jax.models.networks import abstract_network
from tvt_jax.training.stage import split_trained
from tvt_jax.weights.names import torch_tensors

ROOT = Path(__file__).parent.parent
NAN = float("nan")
# Configuration file -> its variants, `small` and `tiny` apart.
FILES = {
    "stage1": ("", "V1", "V2", "S2", "S3"),
    "stage2": ("", "V1", "V2", "S3"),
    "pretrain_vae": ("", "T1", "T2"),
    "pretrain_unet": ("",),
    "stage3": ("", "S1", "S2", "S3", "S4", "S5"),
    "stisr": ("",),
}
# The rule by which the release picks what it trains.
RELEASE_LORA = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut",
    "conv_out", "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
RELEASE_FULL = (
    "down_blocks.0", "up_blocks.3.upsamplers.0", "up_blocks.4", "conv_in", "conv_out",
)  # fmt: skip
VAE_VARIANTS = [
    (name, variant)
    for name, variants in FILES.items()
    for variant in variants
    if name in ("stage1", "stage2", "pretrain_vae")
]
RESTORATION_VARIANTS = [(name, v) for name in ("stage3", "stisr") for v in FILES[name]]


def load(name):
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_is_tested():
    assert {path.stem for path in (ROOT / "configs").rglob("*.py")} == set(FILES)


@pytest.mark.parametrize(("name", "variant"), VAE_VARIANTS)
def test_variants_of_vaes(name, variant):
    module = load(name)
    full = module.get_config(variant)
    small, tiny = (
        module.get_config(f"{variant},{size}" if variant else size) for size in ("small", "tiny")
    )
    for config in (full, small, tiny):
        assert isinstance(config, VAETrainConfig)
        abstract_network("vae", config.vae)
        # The same network, narrower; the same parts are trained on the same latents.
        assert len(config.vae.block_out_channels) == len(full.vae.block_out_channels)
        assert config.vae.downsampling == full.vae.downsampling
        for field in ("trained", "fresh", "latents"):
            assert getattr(config, field) == getattr(full, field)
    assert "data.train" in missing(small) and tiny.vae == small.vae
    check_is_bundled(tiny)
    if missing(tiny):  # an ablation of stage 2 needs its own stage 1 first
        assert name == "stage2" and variant and missing(tiny) == ["init_vae"]
        tiny.init_vae = "runs/stage1/model/vae"
    tiny.validate()
    check_documented(module, name, variant)


def missing(config):
    """What must still be given: the fields that the configuration's refusal names."""
    try:
        config.validate()
    except UserError as error:
        return re.findall(r"`?(?:--)?config\.([a-z_.]+)`?=\.\.\.", str(error))
    return []


def check_is_bundled(config):
    assert config.data.train == str(TRAIN_PHOTOGRAPHS)
    assert config.validation.folder == str(HELDOUT_PHOTOGRAPHS)


def check_documented(module, name, variant):
    assert f"--config configs/{name}.py" in module.__doc__ and (
        not variant or variant in module.__doc__
    )


# Parameters of each UNet once its outer levels are replicated: what the whole model may hold.
@pytest.mark.parametrize(("variant", "most"), [("", None), ("small", 2.1e6), ("tiny", 2.1e6)])
def test_variants_of_unets(variant, most):
    module = load("pretrain_unet")
    config = module.get_config(variant)
    assert isinstance(config, DiffusionTrainConfig)
    # The levels of Stable Diffusion's, so that its outer ones can be replicated.
    assert len(config.unet.block_out_channels) == len(SD21_UNET.block_out_channels)
    network = abstract_network("unet", replicated_config(config.unet))
    if most is not None:
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(network))]
        assert sum(sizes) <= most
    assert config.data.degradation is not None and 0 < config.degraded < 1
    if variant == "tiny":
        check_is_bundled(config)
    else:
        assert missing(config) == (["data.train"] if variant else ["data.train", "vae"])
        config.data.train, config.vae = "photographs", config.vae or "vae"
    config.validate()
    check_documented(module, "pretrain_unet", variant)


@pytest.mark.parametrize(("name", "variant"), RESTORATION_VARIANTS)
def test_variants_of_restoration(name, variant):
    module = load(name)
    full = module.get_config(variant)
    tiny = module.get_config(f"{variant},tiny" if variant else "tiny")
    assert missing(full) == ["data.train", "sd", "vae"]
    full.data.train, full.sd, full.vae = "photographs", "sd", "vae"
    for config in (full, tiny):
        assert isinstance(config, RestorationTrainConfig)
    check_is_bundled(tiny)
    if missing(tiny):  # VAEs of ablations are trained first
        assert variant in ("S2", "S3") and missing(tiny) == ["vae"]
        tiny.vae = "runs/stage2/model/vae"
    full.validate()
    tiny.validate()
    for field in ("generator", "trained", "vae_lora_rank", "critic_lora_rank"):
        assert getattr(tiny, field) == getattr(full, field)
    assert bool(tiny.lora_rank) == bool(full.lora_rank)
    check_documented(module, name, variant)


@pytest.mark.parametrize("variant", FILES["stage3"])
def test_small_restoration(variant):
    module = load("stage3")
    small = module.get_config(f"{variant},small" if variant else "small")
    tiny = module.get_config(f"{variant},tiny" if variant else "tiny")
    assert (small.sd, small.vae, small.lora_rank) == (tiny.sd, tiny.vae, tiny.lora_rank)
    assert small.loss.vsd > 0 and small.loss.lpips > 0
    assert missing(small) == ["data.train", *([] if small.vae else ["vae"])]
    small.data.train, small.vae = "photographs", small.vae or "runs/stage2/model/vae"
    small.validate()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: setattr(c.optim, "learning_rate", NAN), "config.optim.learning_rate=nan"),
        (lambda c: setattr(c.loss, "vsd", float("inf")), "config.loss.vsd=inf` is not a finite"),
        (lambda c: setattr(c.data.degradation.first, "jpeg_range", (NAN, 9.0)), "jpeg_range=nan"),
        (lambda c: setattr(c, "seed", 2**32), "seed=4294967296` is not from 0 to 2147483647"),
    ],
    ids=["rate", "weight", "range", "seed"],
)
def test_numbers_that_mean_nothing_are_refused(change, match):
    config = load("stage3").get_config("tiny")
    change(config)
    with pytest.raises(UserError, match=match):
        config.validate()


def test_stage_3_is_the_releases():
    config = load("stage3").get_config()
    loss = config.loss
    assert (loss.l2, loss.lpips, loss.vsd, loss.guidance) == (1.0, 2.0, 1.0, 7.5)
    assert (loss.patch, loss.min_timestep, loss.max_timestep) == (64, 250, 750)
    for optim in (config.optim, config.critic_optim):
        assert (optim.learning_rate, optim.beta1, optim.beta2) == (5e-5, 0.9, 0.999)
        assert (optim.epsilon, optim.weight_decay, optim.clip_norm) == (1e-8, 1e-2, 1.0)
        assert (optim.schedule, optim.warmup_steps) == ("constant", 0)
    assert config.data.batch_size == 16 and config.data.crop == 512
    assert config.lora_rank == config.critic_lora_rank == 4 and not config.vae_lora_rank
    assert config.critic_lora_parts == ("mid_block", "conv_out")
    pairs = load("stisr").get_config()
    assert pairs.data.pairs == "realce" and pairs.data.degradation is None


def test_what_stage_3_trains_is_what_the_release_trains():
    """By name, at full size: the release's rules applied to PyTorch's names."""
    model = abstract_network("unet", CE_UNET)
    plain = {t.name for t in torch_tensors(model).values()}
    adapted = {
        name.removesuffix(".weight")
        for name in plain
        if any(word in name for word in RELEASE_LORA) and "bias" not in name and "norm" not in name
    }
    full = {name for name in plain if any(part in name for part in RELEASE_FULL)}
    add_lora(model, LoRAConfig(), InitKeys(None))
    _, trained, frozen, _ = split_trained(model, load("stage3").get_config().trained)
    table, got = torch_tensors(model), [path for path, _ in nnx.to_flat_state(trained)]
    assert {table[path].name for path in got if path in table} == full
    layers = [".".join(map(str, path[:-1])) for path in got if path not in table]
    assert sorted(layers) == sorted([*adapted, *adapted])  # A and B
    assert all(path in table for path, _ in nnx.to_flat_state(frozen))


@pytest.mark.parametrize("name", FILES)
def test_unknown_variants_are_refused(name):
    exclusive = {"pretrain_vae": "T1,T2", "stage3": "S1,S2"}.get(name, "V1,V2")
    for variant in ("huge", "tiny,huge", exclusive):
        with pytest.raises(ValueError, match="unknown variant|exclude each other"):
            load(name).get_config(variant)


def test_the_words_of_a_variant_come_in_any_order():
    assert parse_variant("") == ("", "")
    assert parse_variant("tiny,V1", ("V1", "V2")) == parse_variant("V1,tiny", ("V1", "V2"))
    with pytest.raises(ValueError, match="unknown variant V3; there are small, tiny, V1, V2"):
        parse_variant("V3,tiny", ("V1", "V2"))
    with pytest.raises(ValueError, match="small and tiny exclude each other"):
        parse_variant("tiny,small")


def test_a_run_may_be_resumed_faster_and_elsewhere_but_not_as_another():
    config = load("stage3").get_config("tiny")
    before = config.identity()
    config.sd, config.adapters, config.data.threads, config.mesh.fsdp = "elsewhere", True, 1, 2
    config.loss.patches_at_once, config.validation.every, config.log_every = 1, 7, 7
    config.optim.schedule, config.steps = "constant", 7
    assert config.identity() == {
        name: "constant" if name == "optim.schedule" else value
        for name, value in before.items()
        if name != "steps"  # of a cosine only
    }
    config.loss.vsd, config.data.degradation.second.jpeg_range = 0.5, (1.0, 2.0)
    changed = {name for name, value in config.identity().items() if before[name] != value}
    assert changed == {"optim.schedule", "loss.vsd", "data.degradation.second.jpeg_range"}


def test_the_papers_runs_are_the_papers():
    stage1, stage2 = load("stage1").get_config(), load("stage2").get_config()
    for config in (stage1, stage2):
        assert config.data.batch_size == 256 and config.data.crop == 512
        assert config.vae == VAES["VAE-D4"] and config.loss.lpips == 1.0
    assert stage1.latents == "teacher" and stage1.trained == ("decoder", "post_quant_conv")
    assert stage1.loss.gan == 0.5 and missing(stage1) == ["data.train", "teacher"]
    assert stage2.latents == "own" and stage2.trained == ("encoder", "quant_conv")
    assert stage2.loss.gan == 0.0 and stage2.loss.kl == 0.0


def test_ablations_are_what_the_paper_says():
    pretrain, stage1 = load("pretrain_vae"), load("stage1")
    assert not pretrain.get_config("T1").loss.latent and not pretrain.get_config("T1").teacher
    assert pretrain.get_config("T2").loss.latent > 0
    assert stage1.get_config("V1").vae == VAES["V1"] and stage1.get_config("V1").vae.mid_block
    assert not stage1.get_config("V2").vae.mid_block
    assert stage1.get_config("S3").vae.latent_channels == 8
    skips = stage1.get_config("S2")
    assert skips.vae.skip_connections and skips.latents == "own" and not skips.teacher
    assert skips.fresh == ("decoder.skip_convs",)
