"""The tagger against its original's results, and the mistakes that those results would show."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support import ram_files
from tests.support.parity import convert_module, max_difference, nchw, noise
from tests.support.torch_tagger import TorchTagger
from tvt_jax.config import TaggerConfig
from tvt_jax.models import swin
from tvt_jax.models.networks import abstract_network
from tvt_jax.models.swin import (
    PatchMerging,
    SwinTransformerBlock,
    WindowAttention,
    join_windows,
    split_windows,
)
from tvt_jax.models.tagger import RAM
from tvt_jax.weights.model_folder import load_network

# Float32 sums of up to 512 terms of magnitude 1, in another order.
ACTIVATION_TOLERANCE = 2e-5
LOGIT_TOLERANCE = 1e-5
GOLDEN = ram_files.golden()
IMAGES = ram_files.normalised(GOLDEN["images"])
KINDS = ("ram", "dape")


def head_activations(model, image):
    """Everything after the image tokens [B, N, P]."""
    labels = model.label_queries()
    acts = {"wordvec_proj_prerelu": model.wordvec_proj(model.label_embed[...])}
    x, queries = (jnp.broadcast_to(a[None], (len(image), *a.shape)) for a in labels)
    for index, layer in enumerate(model.tagging_head.encoder.layer):
        queries = queries if index == 0 else layer.project(x)
        x = layer.crossattention(x, queries, image)
        acts[f"head{index}_crossattention"] = x
        x = layer.output(layer.intermediate(x), x)
        acts[f"head{index}"] = x
    return {**acts, "logits": model.fc(x)[..., 0]}


def first_stage(model, patches):
    """The first resolution, which has a shifted block, and the merging behind it."""
    stage = model.visual_encoder.layers[0]
    first = stage.blocks[0](patches)
    second = stage.blocks[1](first)
    return {
        "stage0_block0": first,
        "stage0_block1_shifted": second,
        "stage0": stage.downsample(second),
    }


def all_activations(model, images):
    encoder = model.visual_encoder
    acts = {"patch_embed": encoder.patch_embed(images)}
    acts |= first_stage(model, acts["patch_embed"])
    x = acts["stage0"]
    for stage in (1, 2, 3):
        x = acts[f"stage{stage}"] = encoder.layers[stage](x)
    acts["swin"] = encoder(images)
    acts["image_embeds"] = model.image_proj(acts["swin"])
    acts |= head_activations(model, acts["image_embeds"])
    return {**acts, "whole": model(images)}


@pytest.fixture(scope="module")
def networks(tagger_models):
    return {
        kind: load_network(folder / "tagger", "tagger", jnp.float32, jnp.float32)
        for kind, folder in tagger_models.items()
    }


@pytest.fixture(scope="module")
def activations(networks):
    graph = networks["ram"].graph
    compiled = jax.jit(lambda params: all_activations(nnx.merge(graph, params), IMAGES))
    return {kind: jax.device_get(compiled(networks[kind].params)) for kind in KINDS}


def difference(kind: str, name: str, array) -> float:
    """Greatest difference to the stored part of an activation, or of its statistics."""
    if name == "logits":
        return max_difference(array, GOLDEN[f"{kind}/logits"])
    array, key = np.asarray(array), f"{kind}/{name}"
    if name == "wordvec_proj_prerelu":
        part = array[:8, :16]
    else:
        array = array.reshape(len(array), -1, array.shape[-1])
        part = array[:, GOLDEN[f"{key}/tokens"], :16]
    assert array.shape == tuple(GOLDEN[f"{key}/shape"])
    statistics = (array.mean(), array.std(), np.abs(array).max())
    return max(
        max_difference(part, GOLDEN[f"{key}/slice"]),
        max_difference(statistics, GOLDEN[f"{key}/stat"]),
    )


STORED = sorted(k.split("/")[1] for k in GOLDEN if k.startswith("ram/") and k.endswith("/slice"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STORED)
def test_every_activation_is_the_originals(activations, kind, name):
    assert difference(kind, name, activations[kind][name]) < ACTIVATION_TOLERANCE


def test_every_stage_has_an_activation():
    assert len(STORED) == 14


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_tags_are_the_originals(activations, kind):
    for name in ("logits", "whole"):  # layer by layer, and as it is called
        got = activations[kind][name]
        assert got.dtype == np.float32
        assert max_difference(got, GOLDEN[f"{kind}/logits"]) < LOGIT_TOLERANCE
    probabilities = 1 / (1 + np.exp(-got.astype(np.float64)))
    for row in (0, 1):
        tags = np.flatnonzero(probabilities[row] > GOLDEN["class_threshold"])
        np.testing.assert_array_equal(tags, GOLDEN[f"{kind}/tag_index_{row}"])


# --------------------------------------------------------------------------------------------------
# Against PyTorch: shapes that the original's results do not have
# --------------------------------------------------------------------------------------------------

TINY = TaggerConfig(
    num_classes=7, image_size=48, embed_dim=8, depths=(2, 1), num_heads=(2, 1), window_size=3,
    projection_dim=12, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=20, patch_size=4, mlp_ratio=2.0,
)  # fmt: skip


def randomised(reference: TorchTagger) -> TorchTagger:
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith("table"):
                parameter.mul_(5)
    return reference.eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"image_size": 32, "window_size": 4, "patch_size": 2, "depths": (1, 2)}],
    ids=["odd window", "even window, several in the last stage"],
)
def test_equals_pytorch(changes):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, **changes)
    config.validate()
    reference = randomised(TorchTagger(config))
    graph, params = convert_module(reference, lambda **precision: RAM(config, **precision))
    images = noise(2, config.image_size, config.image_size, 3)
    got = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params, images)
    assert max_difference(got, reference(nchw(images)).numpy()) < LOGIT_TOLERANCE


def test_windows_are_joined_as_they_were_split():
    x = np.arange(2 * 6 * 9 * 1).reshape(2, 6, 9, 1)
    windows = split_windows(x, 3)
    np.testing.assert_array_equal(windows[4, :, 0].reshape(3, 3), x[0, 3:6, 3:6, 0])
    np.testing.assert_array_equal(join_windows(windows, 3, 6, 9), x)


# --------------------------------------------------------------------------------------------------
# Mistakes: each must be far outside the tolerance
# --------------------------------------------------------------------------------------------------


def run_part(part, model, array):
    graph, params = nnx.split(model)
    return jax.device_get(jax.jit(lambda p, x: part(nnx.merge(graph, p), x))(params, array))


def no_mask(monkeypatch, model):
    monkeypatch.setattr(WindowAttention, "_mask", lambda self, scores, regions: scores)


def mask_of_another_window(monkeypatch, model):
    """As if the batch were the inner axis of the windows."""
    right = WindowAttention._mask

    def wrong(self, scores, regions):
        swapped = scores.reshape(len(regions), 2, *scores.shape[1:]).swapaxes(0, 1)
        masked = right(self, swapped.reshape(scores.shape), regions)
        masked = masked.reshape(2, len(regions), *scores.shape[1:]).swapaxes(0, 1)
        return masked.reshape(scores.shape)

    monkeypatch.setattr(WindowAttention, "_mask", wrong)


def no_shift(monkeypatch, model):
    for _, module in nnx.iter_modules(model):
        if isinstance(module, SwinTransformerBlock):
            module.shift = 0


def shift_the_other_way(monkeypatch, model):
    right = jnp.roll
    monkeypatch.setattr(jnp, "roll", lambda x, shift, axis: right(x, [-s for s in shift], axis))


def index_transposed(monkeypatch, model):
    right = swin.relative_position_index
    monkeypatch.setattr(swin, "relative_position_index", lambda window: right(window).T)


def index_columns_first(monkeypatch, model):
    right = swin.relative_position_index

    def wrong(window):
        order = np.arange(window**2).reshape(window, window).T.reshape(-1)
        return right(window)[order][:, order]

    monkeypatch.setattr(swin, "relative_position_index", wrong)


def merge_columns_first(monkeypatch, model):
    def wrong(self, x):
        parts = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return self.reduction(self.norm(jnp.concatenate(parts, axis=-1)))

    monkeypatch.setattr(PatchMerging, "__call__", wrong)


def approximate_gelu(monkeypatch, model):
    monkeypatch.setattr(nnx, "gelu", lambda x, approximate: jax.nn.gelu(x, approximate=True))


def queries_and_keys_swapped(monkeypatch, model):
    for _, module in nnx.iter_modules(model):
        if isinstance(module, WindowAttention):
            for parameter in (module.qkv.kernel, module.qkv.bias):
                q, k, v = jnp.split(parameter[...], 3, axis=-1)
                parameter[...] = jnp.concatenate([k, q, v], axis=-1)


def no_window_scale(monkeypatch, model):
    """Queries that are larger by what the scale takes away; one head of 16 channels."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, WindowAttention):
            for parameter in (module.qkv.kernel, module.qkv.bias):
                parameter[...] = parameter[...].at[..., :16].multiply(4.0)


STAGE0_MISTAKES = [
    no_mask, mask_of_another_window, no_shift, shift_the_other_way, index_transposed,
    index_columns_first, merge_columns_first, approximate_gelu, queries_and_keys_swapped,
    no_window_scale,
]  # fmt: skip


def test_the_first_stage_alone_is_right(networks, activations):
    """What the mistakes are compared with."""
    model = networks["ram"](networks["ram"].params)
    for name, array in run_part(first_stage, model, activations["ram"]["patch_embed"]).items():
        assert difference("ram", name, array) < ACTIVATION_TOLERANCE


@pytest.mark.parametrize("mistake", STAGE0_MISTAKES, ids=lambda f: f.__name__)
def test_mistakes_of_the_encoder_show(networks, activations, monkeypatch, mistake):
    model = networks["ram"](networks["ram"].params)
    mistake(monkeypatch, model)
    acts = run_part(first_stage, model, activations["ram"]["patch_embed"])
    worst = max(difference("ram", name, array) for name, array in acts.items())
    assert worst > 10 * ACTIVATION_TOLERANCE


def test_a_shift_of_the_last_resolution_shows(networks, activations):
    """It is a single window: shifting would only mask."""
    model = networks["ram"](networks["ram"].params)
    last = model.visual_encoder.layers[3]
    assert [block.shift for block in last.blocks] == [0, 0]
    last.blocks[1].shift = 3
    got = run_part(lambda m, x: m.visual_encoder.layers[3](x), model, activations["ram"]["stage2"])
    assert difference("ram", "stage3", got) > 10 * ACTIVATION_TOLERANCE


def no_head_scale(monkeypatch, model):
    for layer in model.tagging_head.encoder.layer:
        query = layer.crossattention.self.query
        for parameter in (query.kernel, query.bias):
            parameter[...] = 4.0 * parameter[...]  # sqrt of 16 channels a head


def no_label_activation(monkeypatch, model):
    monkeypatch.setattr(nnx, "relu", lambda x: x)


@pytest.mark.parametrize(
    "mistake", [approximate_gelu, no_head_scale, no_label_activation], ids=lambda f: f.__name__
)
def test_mistakes_of_the_head_show(networks, activations, monkeypatch, mistake):
    model = networks["ram"](networks["ram"].params)
    mistake(monkeypatch, model)
    acts = run_part(head_activations, model, activations["ram"]["image_embeds"])
    assert difference("ram", "logits", acts["logits"]) > 10 * LOGIT_TOLERANCE


def test_epsilons():
    """Another epsilon would change a golden activation by less than its tolerance."""
    found = {"visual_encoder": set(), "tagging_head": set()}
    for path, module in nnx.iter_modules(abstract_network("tagger", TINY)):
        if isinstance(module, nnx.LayerNorm):
            found[path[0]].add((module.epsilon, module.use_fast_variance))
    assert found == {"visual_encoder": {(1e-5, False)}, "tagging_head": {(1e-12, False)}}


# --------------------------------------------------------------------------------------------------
# Precision
# --------------------------------------------------------------------------------------------------


def products(with_labels=False) -> list[str]:
    """The matrix products and convolutions of the program; the labels' may be given."""
    graph, params = nnx.split(abstract_network("tagger", TINY))
    images = jax.ShapeDtypeStruct((1, 48, 48, 3), jnp.float32)
    labels = jax.eval_shape(lambda p: nnx.merge(graph, p).label_queries(), params)
    arguments = (params, images, labels) if with_labels else (params, images)
    lowered = jax.jit(lambda p, *a: nnx.merge(graph, p)(*a)).lower(*arguments)
    lines = lowered.as_text().splitlines()
    return [x for x in lines if "stablehlo.dot_general" in x or "stablehlo.convolution" in x]


@pytest.mark.parametrize("default", ["default", "bfloat16", "highest"])
def test_float32_products_whatever_the_programs_default_is(default):
    """On a CPU all precisions compute alike, so the program is looked at."""
    with jax.default_matmul_precision(default):
        lines = products()
    # Patches, 6 in each of 3 blocks, merging, image, labels, 2 x 8 in the head, fc.
    assert len(lines) == 1 + 18 + 1 + 1 + 1 + 16 + 1
    assert all(line.count("HIGHEST") == 2 for line in lines)


def test_what_depends_on_the_classes_alone_is_not_computed_for_every_image():
    assert len(products()) - len(products(with_labels=True)) == 2


def test_bfloat16_is_close_and_gives_float32_logits():
    torch.manual_seed(0)
    config = dataclasses.replace(
        TINY, image_size=12, depths=(1,), num_heads=(2,), num_hidden_layers=1
    )
    reference = randomised(TorchTagger(config))
    _, params = convert_module(reference, lambda **precision: RAM(config, **precision))
    low = nnx.graphdef(abstract_network("tagger", config, dtype=jnp.bfloat16))
    images = noise(2, 12, 12, 3)
    logits = jax.jit(lambda p, x: nnx.merge(low, p)(x))(params, images)
    assert logits.dtype == jnp.float32
    want = reference(nchw(images)).numpy()
    # bfloat16 resolves 0.4 %, and the errors of a dozen layers add up.
    assert 1e-4 < max_difference(logits, want) < 0.05 * np.abs(want).max()
