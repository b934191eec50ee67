"""The tagger of the release: RAM's checkpoint and DAPE's adapters, converted to `tagger/`.

`ram_swin_large_14m.pth` holds all of RAM, captioning included, and its optimizer; tagging needs a
sixth of it. `DAPE.pth` holds LoRA adapters for RAM, trained on degraded images; they are merged.
Source: cswry/SeeSR `ram/models/ram_lora.py`, `ram/models/utils.py` (loading), loralib (merging).
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from tvt_jax.config import RAM_SWIN_LARGE, TaggerConfig
from tvt_jax.conversion.release_files import load_expected, only_tensors
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_folder
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.model_folder import save_network
from tvt_jax.weights.names import check_names_and_shapes, torch_tensors
from tvt_jax.weights.tag_lists import TAG_LIST, TAG_LIST_SOURCE, THRESHOLDS, read_tag_lists
from tvt_jax.weights.tensor_files import Tensors

Report = Callable[[str], None]

# The two lists that belong to the released checkpoint.
_SHA256 = {
    TAG_LIST: "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
    THRESHOLDS: "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
}
# Name of the head in old checkpoints.
_OLD_HEAD, _HEAD = "vision_multi", "tagging_head"
# RAM ties the head's layers to the first ones of its captioning encoder: the same tensors.
_TIED = ("tagging_head.encoder.layer.", "tag_encoder.encoder.layer.")
# Of RAM's q2l_config.json; the tensors do not show it.
_HEAD_LAYERS = 2
_HEAD_HEADS = 4
# Buffers, which are computed here, and RAM's captioning.
_KNOWN_UNUSED = (
    re.compile(r".*\.(?P<what>relative_position_index|attn_mask|position_ids)"),
    re.compile(r"(?P<what>tag_encoder|text_decoder)\..+"),
)
_ADAPTER = re.compile(r"(?P<layer>.+)\.lora_[AB]")
# The weights that have one: the encoder's queries and values, the head's queries and keys.
_ADAPTED = re.compile(r"(?P<layer>.+\.(attn\.qkv|crossattention\.self\.(query|key)))\.weight")
_RANK = 8  # of the released adapters
_LORA_ALPHA = 1.0  # loralib's default, kept by DAPE: the scale is alpha / rank


@dataclasses.dataclass(frozen=True)
class TaggerSource:
    """A tagger ready to be written.

    Attributes:
      config: its configuration.
      tensors: its weights, adapters merged when they are read.
      lists: content of the two text files by name.
    """

    config: TaggerConfig
    tensors: Tensors
    lists: Mapping[str, bytes]


def convert_tagger(
    ram: Path, ram_data: Path, output: Path, dape: Path | None = None, report: Report = print
) -> None:
    """Writes `tagger/` into a model folder, new or existing.

    Args:
      ram: `ram_swin_large_14m.pth`; memory-mapped, so only what tagging needs is read.
      ram_data: the folder with RAM's two lists.
      output: the model folder; it must not have a `tagger/` yet.
      dape: `DAPE.pth`; None leaves RAM as it is (what training uses).
      report: called with one line for each part, saying what is used and what is ignored.

    Raises:
      UserError: a file is missing, damaged, unsafe, given in the wrong place, or its tensors do
        not fit; nothing is left in `output`.
    """
    source = open_tagger(ram, ram_data, dape, report)
    with atomic_folder(output / "tagger") as folder:
        write_tagger(folder, source, report)


def open_tagger(ram: Path, ram_data: Path, dape: Path | None, report: Report) -> TaggerSource:
    """Opens and checks everything that `write_tagger` writes; arguments as `convert_tagger`."""
    state = _open_ram(ram, report)
    config = dataclasses.replace(_config_from_shapes(state), dape=dape is not None)
    lists = {name: _read_list(ram_data, name, config.num_classes) for name in _SHA256}
    expected = {t.name: t.shape for t in torch_tensors(abstract_network("tagger", config)).values()}
    tensors = _select(state, expected, report)
    if dape is not None:
        tensors = _merge_dape(tensors, dape, report)
    return TaggerSource(config, tensors, lists)


def write_tagger(folder: Path, source: TaggerSource, report: Report) -> None:
    """Writes the tagger's own folder. Always float32: a rounded weight flips tags."""
    save_network(folder, "tagger", source.config, source.tensors, "float32")
    for name, content in source.lists.items():
        (folder / name).write_bytes(content)
    report(f"tagger: {len(source.tensors)} tensors from {source.tensors.source}")


# --------------------------------------------------------------------------------------------------
# Tags and thresholds
# --------------------------------------------------------------------------------------------------


def _read_list(folder: Path, name: str, num_classes: int) -> bytes:
    """Content of a list, checked by hash: a shifted line would rename every tag."""
    if not folder.is_dir():
        raise UserError(f"`ram_data` {folder} is not a folder; it must hold {TAG_LIST}.")
    read_tag_lists(folder, num_classes)
    content = (folder / name).read_bytes().replace(b"\r\n", b"\n")  # git on Windows adds the \r
    digest = hashlib.sha256(content).hexdigest()
    if num_classes == RAM_SWIN_LARGE.num_classes and digest != _SHA256[name]:
        raise UserError(
            f"{folder / name} is not RAM's list (its SHA-256 is {digest[:12]}..., not "
            f"{_SHA256[name][:12]}...); take the unchanged file from {TAG_LIST_SOURCE}."
        )
    return content


# --------------------------------------------------------------------------------------------------
# RAM
# --------------------------------------------------------------------------------------------------


def _open_ram(path: Path, report: Report) -> Tensors:
    content = load_expected(path, "ram")
    if "model" in content:
        others = sorted(str(key) for key in content if key != "model")
        if others:
            report(f"ignored in {path}: {', '.join(others)}")
        content = content["model"]
    state = only_tensors(content, str(path))
    clashes = [n for n in state if _OLD_HEAD in n and n.replace(_OLD_HEAD, _HEAD) in state]
    if clashes:
        raise UserError(
            f"{path} holds tensors under both of the head's names ({_OLD_HEAD} and {_HEAD}): "
            f"{', '.join(clashes)}."
        )
    return state.renamed(lambda name: name.replace(_OLD_HEAD, _HEAD))


def _config_from_shapes(state: Tensors) -> TaggerConfig:
    """Reads the sizes off the tensors: the checkpoint holds no configuration of the network."""

    def count(pattern: str) -> int:
        return len({m[1] for name in state if (m := re.match(pattern, name))})

    encoder = "visual_encoder.layers"
    stages = count(rf"{encoder}\.(\d+)\.blocks\.")
    try:
        embed_dim, _, patch, _ = state.shape("visual_encoder.patch_embed.proj.weight")
        tables = [
            state.shape(f"{encoder}.{stage}.blocks.0.attn.relative_position_bias_table")
            for stage in range(stages)
        ]
        window = (round(tables[0][0] ** 0.5) + 1) // 2 if tables else 0
        num_classes, projection_dim = state.shape("label_embed")
        intermediate = "encoder.layer.0.intermediate.dense.weight"
        head = "tagging_head" if f"tagging_head.{intermediate}" in state else "tag_encoder"
        config = TaggerConfig(
            num_classes=num_classes,
            # The last resolution of RAM's encoders is a single window.
            image_size=patch * window * 2 ** max(stages - 1, 0),
            embed_dim=embed_dim,
            depths=tuple(count(rf"{encoder}\.{s}\.blocks\.(\d+)\.") for s in range(stages)),
            num_heads=tuple(heads for _, heads in tables),
            window_size=window,
            projection_dim=projection_dim,
            hidden_size=state.shape("fc.weight")[1],
            num_hidden_layers=count(r"tagging_head\.encoder\.layer\.(\d+)\.") or _HEAD_LAYERS,
            num_attention_heads=_HEAD_HEADS,
            intermediate_size=state.shape(f"{head}.{intermediate}")[0],
            patch_size=patch,
            mlp_ratio=state.shape(f"{encoder}.0.blocks.0.mlp.fc1.bias")[0] / embed_dim,
        )
        config.validate()
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{state.source} is not RAM with a Swin encoder ({what}); give ram_swin_large_14m.pth "
            "(RAM++ and Tag2Text are other models)."
        ) from error
    return config


def _select(state: Tensors, expected: Mapping[str, tuple[int, ...]], report: Report) -> Tensors:
    """Selects the tagger's tensors and accounts for every other one."""
    origin = {}
    for name in expected:
        tied = name.replace(*_TIED) if name.startswith(_TIED[0]) else name
        if name in state or tied in state:
            origin[name] = name if name in state else tied
    check_names_and_shapes(
        expected, {name: state.shape(stored) for name, stored in origin.items()}, state.source
    )
    borrowed = [name for name, stored in origin.items() if name != stored]
    if borrowed:
        report(f"{state.source}: {len(borrowed)} tensors of the head read from tag_encoder's")
    _report_unused(state.source, set(state) - set(origin.values()), report)
    return Tensors(state.source, expected, lambda name: state[origin[name]])


def _report_unused(source: str, names: Iterable[str], report: Report) -> None:
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        match = next((m for rule in _KNOWN_UNUSED if (m := rule.fullmatch(name))), None)
        kinds.setdefault(match["what"] if match else "", []).append(name)
    unknown = kinds.pop("", [])
    for kind, members in sorted(kinds.items()):
        report(f"ignored in {source}: {len(members)} tensors of {kind}")
    if unknown:
        report(f"ignored in {source}: {len(unknown)} UNKNOWN tensors: {', '.join(unknown)}")


# --------------------------------------------------------------------------------------------------
# DAPE
# --------------------------------------------------------------------------------------------------


def _merge_dape(base: Tensors, path: Path, report: Report) -> Tensors:
    """Adds the adapters to RAM's weights, as the release does when it starts.

    The release loads the file over RAM's state dict, so a tensor of RAM's own name replaces RAM's.
    """
    content = load_expected(path, "dape")
    state = only_tensors(content.get("model", content), str(path))
    layers = [match["layer"] for name in base if (match := _ADAPTED.fullmatch(name))]
    # The head's layers are tied to tag_encoder's, their adapters are not, and merging adds both.
    # Training never updates tag_encoder's, so they should be zero.
    tied = {
        layer: other
        for layer in layers
        if (other := layer.replace(*_TIED)) != layer
        and f"{other}.lora_B" in state
        and np.any(state[f"{other}.lora_B"])
    }
    adapters = {layer: [layer, tied[layer]] if layer in tied else [layer] for layer in layers}
    replaced = {name for name in state if name in base}
    _check_dape(base, state, adapters, replaced)

    if tied:
        report(f"{path}: {len(tied)} adapters of tag_encoder are not zero and are merged as well")
    report(
        f"{path}: {len(layers)} adapters of rank {_rank(state, layers[0])} are merged, "
        f"{len(replaced)} tensors replace RAM's"
    )
    used = {f"{name}.lora_{side}" for names in adapters.values() for name in names for side in "AB"}
    _report_unused(str(path), set(state) - used - replaced, report)

    def read(name: str) -> np.ndarray:
        value = state[name] if name in replaced else base[name]
        if match := _ADAPTED.fullmatch(name):
            value = value.astype(np.float32)
            for adapter in adapters[match["layer"]]:
                scale = _LORA_ALPHA / _rank(state, adapter)
                value = value + scale * _product(state, adapter, len(value))
        return value

    shapes = {name: base.shape(name) for name in base}
    return Tensors(f"{base.source} and {path}", shapes, read)


def _rank(state: Tensors, adapter: str) -> int:
    return state.shape(f"{adapter}.lora_B")[-1]


def _product(state: Tensors, adapter: str, rows: int) -> np.ndarray:
    """B A, [rows, in] float32. An adapter of queries, keys and values leaves the keys alone.

    There A [2 rank, in] and B [2 C, rank] hold two adapters, of the queries and of the values.
    """
    a, b = (state[f"{adapter}.lora_{side}"].astype(np.float32) for side in "AB")
    if len(b) == rows:
        return b @ a
    width, rank = rows // 3, b.shape[1]
    keys = np.zeros((width, a.shape[1]), np.float32)
    return np.concatenate([b[:width] @ a[:rank], keys, b[width:] @ a[rank:]])


def _adapter_shapes(layer: str, weight: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    rows, columns = weight
    groups, width = (2, rows * 2 // 3) if layer.endswith(".qkv") else (1, rows)
    return {"A": (groups * rank, columns), "B": (width, rank)}


def no_dape_adapters(base: Tensors) -> dict[str, np.ndarray]:
    """The content of a `DAPE.pth` that changes nothing, for a tagger whose adapters are merged."""
    return {
        f"{match['layer']}.lora_{side}": np.zeros(shape, np.float32)
        for name in base
        if (match := _ADAPTED.fullmatch(name))
        for side, shape in _adapter_shapes(match["layer"], base.shape(name), _RANK).items()
    }


def _check_dape(
    base: Tensors, state: Tensors, adapters: Mapping[str, list[str]], replaced: Iterable[str]
) -> None:
    """Every adapted layer must have its adapter, of matching shape, and no other may have one."""
    problems = [
        f"{name} is {state.shape(name)} instead of {base.shape(name)}"
        for name in replaced
        if state.shape(name) != base.shape(name)
    ]
    for layer, names in adapters.items():
        for name in names:
            sides = {side: f"{name}.lora_{side}" for side in "AB"}
            missing = [stored for stored in sides.values() if stored not in state]
            problems += [f"{stored} is missing" for stored in missing]
            if missing:
                continue
            wanted = _adapter_shapes(layer, base.shape(f"{layer}.weight"), _rank(state, name))
            problems += [
                f"{sides[side]} is {state.shape(sides[side])} instead of {shape}"
                for side, shape in wanted.items()
                if state.shape(sides[side]) != shape
            ]
    problems += [
        f"{name} belongs to no layer that DAPE adapts"
        for name in state
        if (match := _ADAPTER.fullmatch(name))
        and match["layer"] not in adapters
        and not any(rule.fullmatch(name) for rule in _KNOWN_UNUSED)
    ]
    if problems:
        raise UserError(f"{state.source} does not fit {base.source}: {'; '.join(problems)}.")
