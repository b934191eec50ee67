"""Conversion of the tagger: what is read and merged, what is refused, what is accounted for."""

import hashlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.support import ram_files
from tests.support.parity import max_difference
from tvt_jax.config import RAM_SWIN_LARGE, TaggerConfig
from tvt_jax.conversion import tagger as tagger_weights
from tvt_jax.conversion.official import convert_official
from tvt_jax.conversion.tagger import convert_tagger, open_tagger
from tvt_jax.errors import UserError
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.model_folder import read_network_config
from tvt_jax.weights.names import torch_tensors
from tvt_jax.weights.tag_lists import read_tag_lists

GOLDEN = ram_files.golden()


def written(model):
    return safetensors.numpy.load_file(model / "tagger" / "model.safetensors")


def opened(files, ram=None, dape=None, data=None, report=lambda line: None):
    """The tagger's source, with some of the files replaced."""
    return open_tagger(ram or files / "ram.pth", data or files / "data", dape, report)


def changed(folder, content, change):
    """Writes a changed copy of a checkpoint."""
    change(content)
    path = folder / "changed.pth"
    torch.save(content, path)
    return path


def changed_ram(folder, change):
    content = ram_files.ram_checkpoint()
    del content["optimizer"]
    return changed(folder, content, lambda c: change(c["model"]))


def changed_dape(folder, change):
    return changed(folder, ram_files.dape_checkpoint(), change)


# --------------------------------------------------------------------------------------------------
# What is written
# --------------------------------------------------------------------------------------------------


def test_plain_ram_is_copied_exactly(tagger_models):
    got, want = written(tagger_models["ram"]), ram_files.state("ram")
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_the_configuration_is_read_off_the_tensors(tagger_models):
    want = TaggerConfig(
        num_classes=50, image_size=224, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8),
        window_size=7, projection_dim=512, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=128,
    )  # fmt: skip
    assert read_network_config(tagger_models["ram"] / "tagger", "tagger") == want
    adapted = read_network_config(tagger_models["dape"] / "tagger", "tagger")
    assert adapted.dape and not want.dape


def test_the_lists_are_copied(tagger_models, tagger_files):
    for name in ("ram_tag_list.txt", "ram_tag_list_threshold.txt"):
        copy = tagger_models["ram"] / "tagger" / name
        assert copy.read_bytes() == (tagger_files / "data" / name).read_bytes()
    names, thresholds = read_tag_lists(tagger_models["ram"] / "tagger", 50)
    assert names[0] == "tag 0" and len(names) == 50
    np.testing.assert_array_equal(thresholds, GOLDEN["class_threshold"])


# --------------------------------------------------------------------------------------------------
# DAPE
# --------------------------------------------------------------------------------------------------

MERGED = sorted(k for k in GOLDEN if k.startswith("dape/merged/") and not k.endswith("/rows"))


def merged_difference(tensors) -> float:
    """Greatest difference to the stored rows of the weights that the original merged."""
    return max(
        max_difference(tensors[key.split("/")[2]][GOLDEN[f"{key}/rows"], :16], GOLDEN[key])
        for key in MERGED
    )


def test_merged_weights_are_the_originals(tagger_models):
    assert len(MERGED) == 4
    assert merged_difference(written(tagger_models["dape"])) < 1e-6


def test_only_adapted_weights_change(tagger_models):
    plain, adapted = written(tagger_models["ram"]), written(tagger_models["dape"])
    differing = {name for name in plain if np.any(plain[name] != adapted[name])}
    layers = {n.rsplit(".", 1)[0] for n in ram_files.shapes("small", "dape")}
    assert differing == {f"{layer}.weight" for layer in layers} and len(differing) == 12
    keys = slice(16, 32)  # the middle third of the first stage's queries, keys and values
    name = "visual_encoder.layers.0.blocks.0.attn.qkv.weight"
    np.testing.assert_array_equal(plain[name][keys], adapted[name][keys])


def groups_swapped(right):
    def product(state, adapter, rows):
        q, k, v = np.split(right(state, adapter, rows), 3) if _is_qkv(adapter) else (0, 0, 0)
        return np.concatenate([v, k, q]) if _is_qkv(adapter) else right(state, adapter, rows)

    return product


def queries_and_keys(right):
    def product(state, adapter, rows):
        if not _is_qkv(adapter):
            return right(state, adapter, rows)
        q, k, v = np.split(right(state, adapter, rows), 3)
        return np.concatenate([q, v, k])

    return product


def first_a_for_both(right):
    def product(state, adapter, rows):
        delta = right(state, adapter, rows)
        if _is_qkv(adapter):
            a, b = (state[f"{adapter}.lora_{side}"] for side in "AB")
            delta[2 * rows // 3 :] = b[rows // 3 :] @ a[: b.shape[1]]
        return delta

    return product


def head_forgotten(right):
    return lambda state, adapter, rows: right(state, adapter, rows) * _is_qkv(adapter)


def unscaled(right):
    return lambda state, adapter, rows: 8 * right(state, adapter, rows)


def _is_qkv(adapter):
    return adapter.endswith("qkv")


@pytest.mark.parametrize(
    "mistake",
    [groups_swapped, queries_and_keys, first_a_for_both, head_forgotten, unscaled],
    ids=lambda f: f.__name__,
)
def test_mistakes_of_merging_show(tagger_files, monkeypatch, mistake):
    monkeypatch.setattr(tagger_weights, "_product", mistake(tagger_weights._product))
    source = opened(tagger_files, dape=tagger_files / "dape.pth")
    assert merged_difference(source.tensors) > 1e-2


def test_adapters_of_the_tied_encoder_are_merged_if_they_are_not_zero(tagger_files, tmp_path):
    """The head's weights are also the captioning encoder's, whose adapters the original adds."""
    layer = "encoder.layer.1.crossattention.self.key"

    def change(state):
        state[f"tag_encoder.{layer}.lora_B"] = torch.randn(64, 8)

    path = changed_dape(tmp_path, change)
    lines = []
    got = opened(tagger_files, dape=path, report=lines.append).tensors
    assert any("1 adapters of tag_encoder are not zero" in line for line in lines)
    plain = opened(tagger_files, dape=tagger_files / "dape.pth").tensors
    adapters = torch.load(path)
    a, b = (adapters[f"tag_encoder.{layer}.lora_{side}"].numpy() for side in "AB")
    name = f"tagging_head.{layer}.weight"
    assert max_difference(got[name], plain[name] + b @ a / 8) < 1e-5
    other = name.replace("layer.1", "layer.0")
    np.testing.assert_array_equal(got[other], plain[other])


def test_a_tensor_of_rams_name_replaces_rams(tagger_files, tmp_path):
    """As `load_state_dict` of the original does, should the file hold more than adapters."""
    path = changed_dape(tmp_path, lambda state: state.update({"fc.bias": torch.tensor([7.0])}))
    assert opened(tagger_files, dape=path).tensors["fc.bias"].tolist() == [7.0]


DAPE_CHANGES = {
    "half an adapter is left out": (
        lambda s: s.pop("visual_encoder.layers.1.blocks.0.attn.qkv.lora_B"),
        "layers.1.blocks.0.attn.qkv.lora_B is missing",
    ),
    "an adapter is left out": (
        lambda s: [
            s.pop(f"tagging_head.encoder.layer.0.crossattention.self.key.lora_{x}") for x in "AB"
        ],
        "self.key.lora_A is missing; .*self.key.lora_B is missing",
    ),
    "a wrong shape": (
        lambda s: s.update(
            {"visual_encoder.layers.0.blocks.0.attn.qkv.lora_A": torch.ones(24, 16)}
        ),
        r"qkv.lora_A is \(24, 16\) instead of \(16, 16\)",
    ),
    "a surplus adapter": (
        lambda s: s.update({"image_proj.lora_A": torch.ones(8, 8)}),
        "image_proj.lora_A belongs to no layer",
    ),
    "a replaced tensor of another shape": (
        lambda s: s.update({"fc.bias": torch.ones(2)}),
        r"fc.bias is \(2,\) instead of \(1,\)",
    ),
}


@pytest.mark.parametrize("case", DAPE_CHANGES)
def test_adapters_that_do_not_fit(tagger_files, tmp_path, case):
    change, match = DAPE_CHANGES[case]
    with pytest.raises(UserError, match=match):
        opened(tagger_files, dape=changed_dape(tmp_path, change))


# --------------------------------------------------------------------------------------------------
# RAM
# --------------------------------------------------------------------------------------------------


def test_every_tensor_of_the_files_is_used_or_named(tagger_files, tmp_path):
    def change(state):
        state["visual_encoder.surprise"] = torch.ones(1)

    lines = []
    ram = changed_ram(tmp_path, change)
    source = opened(tagger_files, ram=ram, dape=tagger_files / "dape.pth", report=lines.append)
    assert f"ignored in {ram}: 1 UNKNOWN tensors: visual_encoder.surprise" in lines
    for path, used in ((ram, len(source.tensors)), (tagger_files / "dape.pth", 24)):
        ignored = [
            re.search(r": (\d+) (UNKNOWN )?tensors", li) for li in lines if f"in {path}" in li
        ]
        held = torch.load(path)
        held = held.get("model", held)
        assert used + sum(int(m[1]) for m in ignored if m) == len(held)
    assert f"ignored in {ram}: config, epoch" in lines


def test_older_names_of_the_head(tagger_files, tmp_path):
    def change(state):
        for name in [n for n in state if n.startswith("tagging_head")]:
            state[name.replace("tagging_head", "vision_multi")] = state.pop(name)

    check_equals_plain(opened(tagger_files, ram=changed_ram(tmp_path, change)))


def test_the_head_is_read_from_the_tied_encoder_where_it_is_missing(tagger_files, tmp_path):
    def change(state):
        for name in [n for n in state if n.startswith("tagging_head")]:
            state[name.replace("tagging_head", "tag_encoder")] = state.pop(name)

    lines = []
    source = opened(tagger_files, ram=changed_ram(tmp_path, change), report=lines.append)
    check_equals_plain(source)
    assert any("32 tensors of the head read from tag_encoder's" in line for line in lines)


def test_a_bare_state_dict(tagger_files, tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(ram_files.ram_checkpoint()["model"], path)
    check_equals_plain(opened(tagger_files, ram=path))


def check_equals_plain(source):
    want = ram_files.state("ram")
    assert set(source.tensors) == set(want)
    for name in want:
        np.testing.assert_array_equal(source.tensors[name], want[name])


RAM_CHANGES = {
    "missing": (lambda s: s.pop("fc.bias"), "1 missing: fc.bias"),
    "two missing": (
        lambda s: [s.pop("visual_encoder.norm.bias"), s.pop("image_proj.weight")],
        "2 missing: visual_encoder.norm.bias, image_proj.weight|2 missing: image_proj.weight, vis",
    ),
    "mis-shaped": (
        lambda s: s.update({"image_proj.bias": torch.ones(3)}),
        r"1 of another shape: image_proj.bias \(3,\) instead of \(512,\)",
    ),
    "another table": (
        lambda s: s.update(
            {"visual_encoder.layers.2.blocks.1.attn.relative_position_bias_table": torch.ones(9, 4)}
        ),
        r"relative_position_bias_table \(9, 4\) instead of \(169, 4\)",
    ),
    "no encoder": (
        lambda s: [s.pop(n) for n in list(s) if "patch_embed" in n],
        "is not RAM with a Swin encoder .lacks visual_encoder.patch_embed",
    ),
    "both names": (
        lambda s: s.update({k.replace("tagging_head", "vision_multi"): s[k] for k in list(s)}),
        "under both of the head's names",
    ),
}


@pytest.mark.parametrize("case", RAM_CHANGES)
def test_checkpoints_that_do_not_fit(tagger_files, tmp_path, case):
    change, match = RAM_CHANGES[case]
    output = tmp_path / "model"
    with pytest.raises(UserError, match=match) as error:
        convert_tagger(changed_ram(tmp_path, change), tagger_files / "data", output)
    assert "\n" not in str(error.value) and not output.exists()


@pytest.mark.parametrize(
    ("ram", "dape", "match"),
    [
        ("dape.pth", None, "`ram` .*dape.pth is not .*looks like the file for `dape`"),
        ("ram.pth", "ram.pth", "`dape` .*ram.pth is not .*looks like the file for `ram`"),
        ("data/ram_tag_list.txt", None, "not a readable PyTorch checkpoint"),
        ("nowhere.pth", None, "does not exist"),
    ],
)
def test_a_file_under_the_wrong_flag(tagger_files, ram, dape, match):
    with pytest.raises(UserError, match=match):
        opened(tagger_files, ram=tagger_files / ram, dape=dape and tagger_files / dape)


def test_a_truncated_checkpoint(tagger_files, tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes((tagger_files / "ram.pth").read_bytes()[:-1000])
    with pytest.raises(UserError, match="download it again"):
        opened(tagger_files, ram=path)


# --------------------------------------------------------------------------------------------------
# Tags and thresholds
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("ram_tag_list.txt", None, "has no ram_tag_list.txt; take it from ram/data/ of github.com"),
        ("ram_tag_list_threshold.txt", None, "has no ram_tag_list_threshold.txt"),
        ("ram_tag_list.txt", b"cat\ndog\n", "2 lines, and the tagger has 50 classes"),
        ("ram_tag_list_threshold.txt", b"x\n" * 50, "not a list of numbers"),
        ("ram_tag_list.txt", b"\xff\xfe" * 50, "not a readable text file"),
    ],
)
def test_lists_that_do_not_fit(tagger_files, tmp_path, name, content, match):
    data = tmp_path / "data"
    shutil.copytree(tagger_files / "data", data)
    (data / name).unlink()
    if content is not None:
        (data / name).write_bytes(content)
    with pytest.raises(UserError, match=match):
        opened(tagger_files, data=data)


def test_lists_of_the_released_size_must_be_the_released_ones(tmp_path, monkeypatch):
    """A line too many above and one too few below would shift every tag's name."""
    ram_files.write_ram_data(tmp_path, np.full(RAM_SWIN_LARGE.num_classes, 0.65))
    with pytest.raises(UserError, match="is not RAM's list .its SHA-256.*take the unchanged file"):
        tagger_weights._read_list(tmp_path, "ram_tag_list.txt", RAM_SWIN_LARGE.num_classes)
    # With the right sum it is taken, and line ends of Windows do not change the sum.
    content = (tmp_path / "ram_tag_list.txt").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(tagger_weights._SHA256, "ram_tag_list.txt", digest)
    (tmp_path / "ram_tag_list.txt").write_bytes(content.replace(b"\n", b"\r\n"))
    size = RAM_SWIN_LARGE.num_classes
    assert tagger_weights._read_list(tmp_path, "ram_tag_list.txt", size) == content


def test_ram_data_that_is_no_folder(tagger_files):
    with pytest.raises(UserError, match="`ram_data` .* is not a folder"):
        opened(tagger_files, data=tagger_files / "nowhere")


# --------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------


def test_the_command_adds_a_tagger_to_a_model_once(tagger_files, tagger_models, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    arguments = ("tagger", "--ram", tagger_files / "ram.pth", "--dape", tagger_files / "dape.pth")
    arguments += ("--ram-data", tagger_files / "data", "--output", tmp_path)
    command = [sys.executable, "-m", "tvt_jax.convert", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "12 adapters of rank 8 are merged" in done.stdout
    got, want = written(tmp_path), written(tagger_models["dape"])
    assert all(np.array_equal(got[name], want[name]) for name in want)
    with pytest.raises(UserError, match="tagger exists already"):
        convert_tagger(tagger_files / "ram.pth", tagger_files / "data", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_index.json", "tagger"]


def test_the_official_conversion_takes_the_same_files(
    small_release, tagger_files, tagger_models, tmp_path
):
    release = dict(sd=small_release.sd, vae=small_release.vae_file, unet=small_release.tvt_unet)
    files = dict(
        ram=tagger_files / "ram.pth",
        dape=tagger_files / "dape.pth",
        ram_data=tagger_files / "data",
    )
    output = tmp_path / "model"
    quiet = dict(report=lambda line: None)
    convert_official(**release, **files, output=output, dtype="bfloat16", **quiet)
    got, want = written(output), written(tagger_models["dape"])
    for name in want:  # float32 whatever the other parts are
        np.testing.assert_array_equal(got[name], want[name])
    for left_out in ("ram_data", "ram"):
        some = {k: v for k, v in files.items() if k != left_out}
        with pytest.raises(UserError, match="`ram`.* and `ram_data`.* belong together"):
            convert_official(**release, **some, output=tmp_path / "never", **quiet)


# --------------------------------------------------------------------------------------------------
# Full size
# --------------------------------------------------------------------------------------------------


def test_the_full_size_table_is_the_originals():
    network = abstract_network("tagger", RAM_SWIN_LARGE)
    got = {t.name: t.shape for t in torch_tensors(network).values()}
    assert got == ram_files.shapes("full", "ram")
    assert len(got) == 366 and sum(map(np.prod, got.values())) == 212_117_045


def test_the_full_size_adapters_are_the_originals():
    names = ram_files.shapes("full", "ram")
    layers = {n.removesuffix(".weight") for n in names if tagger_weights._ADAPTED.fullmatch(n)}
    adapters = ram_files.shapes("full", "dape")
    assert {f"{layer}.lora_{side}" for layer in layers for side in "AB"} == set(adapters)
    assert len(adapters) == 56
