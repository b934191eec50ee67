"""RAM's and DAPE's files, with weights that follow from the tensors' names.

The golden results in tests/golden/ram were computed by the original PyTorch classes (cswry/SeeSR,
`RAMLora`) with these very weights. The two JSON files list every tensor of the original state dict,
full size and small, by what it is for: "ram" and "dape" act on tagging, "buffer" can be computed,
"unused" and "unused_lora" belong to captioning.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent.parent / "golden" / "ram"
FC_BIAS = {"full": -1.0, "small": -0.1}  # brings a few tags over their thresholds
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def shapes(size: str, role: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of one role."""
    table = json.loads((GOLDEN / f"shapes_{size}.json").read_text())
    return {name: tuple(shape) for name, shape in table[role].items()}


def golden() -> dict[str, np.ndarray]:
    """Activations and results of the small model."""
    return dict(np.load(GOLDEN / "golden_small.npz"))


def _scale_and_offset(name: str, shape: tuple[int, ...], size: str) -> tuple[float, float]:
    if name == "fc.bias":
        return 0.0, FC_BIAS[size]
    if name.endswith(".lora_A"):
        return 1 / math.sqrt(shape[1]), 0.0
    if name.endswith((".lora_B", ".relative_position_bias_table")):
        return 0.5, 0.0
    if name == "label_embed":
        return 1.0, 0.0
    if name.endswith(".bias"):
        return 0.05, 0.0
    if len(shape) == 1:  # norms
        return 0.1, 1.0
    return 1 / math.sqrt(math.prod(shape[1:])), 0.0


def value(name: str, shape: tuple[int, ...], size: str = "small") -> np.ndarray:
    """The tensor of that name, float32."""
    scale, offset = _scale_and_offset(name, shape, size)
    draws = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return (offset + scale * draws).astype(np.float32)


def state(role: str, size: str = "small") -> dict[str, np.ndarray]:
    """All tensors of the role "ram" or "dape"."""
    return {name: value(name, shape, size) for name, shape in shapes(size, role).items()}


def image(number: int, height: int = 224, width: int = 224) -> np.ndarray:
    """[height, width, 3] uint8 by integer arithmetic; 0 and 1 are the golden's inputs."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    if number == 0:
        v = (x * (c + 1)) // 2 + y + 37 * ((x // 32 + y // 32) % 2)
    elif number == 1:
        v = ((x - width // 2) ** 2 + (y - height // 3) ** 2) // (64 * (c + 1)) + 50 * c
    else:
        v = x * 7 + y * 13 + 29 * c + (x * y) // 97
    return (v % 256).astype(np.uint8)


def normalised(images: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] to what the network takes, float32."""
    return (images.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION


def ram_checkpoint(size: str = "small") -> dict:
    """Content of `ram_swin_large_14m.pth`: the model, its captioning, its optimizer."""
    model = {name: torch.from_numpy(array) for name, array in state("ram", size).items()}
    for name, shape in {**shapes(size, "buffer"), **shapes(size, "unused")}.items():
        model[name] = torch.full(shape, 0.5)  # not what a tagger could use in place of its own
    moments = {
        index: {name: torch.full_like(tensor, 0.5) for name in ("exp_avg", "exp_avg_sq")}
        for index, tensor in enumerate(model.values())
    }
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-5, "params": list(moments)}]}
    config = {"image_size": 384, "vit": "swin_l"}
    return {"model": model, "optimizer": optimizer, "config": config, "epoch": 4}


def dape_checkpoint(size: str = "small") -> dict[str, torch.Tensor]:
    """Content of `DAPE.pth`: flat; adapters of captioning are at their start, lora_B = 0."""
    adapters = {name: torch.from_numpy(array) for name, array in state("dape", size).items()}
    for name, shape in shapes(size, "unused_lora").items():
        fill = 0.0 if name.endswith("lora_B") else 0.5
        adapters[name] = torch.full(shape, fill)
    return adapters


def write_ram_data(folder: Path, thresholds: np.ndarray) -> Path:
    """Writes the two lists, with names made up."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"tag {index}" for index in range(len(thresholds))]
    (folder / "ram_tag_list.txt").write_text("\n".join(names))
    lines = "".join(f"{threshold:.8g}\n" for threshold in thresholds)
    (folder / "ram_tag_list_threshold.txt").write_text(lines)
    return folder
