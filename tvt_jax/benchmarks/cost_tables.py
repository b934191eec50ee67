"""The paper's tables of cost with ours beside them."""

from collections.abc import Iterable, Sequence

from tvt_jax.benchmarks.complexity import (
    Cost,
    tagger_cost,
    text_encoder_cost,
    unet_cost,
    vae_cost,
)
from tvt_jax.benchmarks.speed import Speed, speed_table
from tvt_jax.benchmarks.systems import SYSTEMS, system_unet
from tvt_jax.config import VAES

# The paper's figures: parameters and multiply-adds, "" where it gives none.
PAPER_VAES = {"VAE-D8": ("83.7 M", "1.8 T"), "VAE-D4": ("15.2 M", "1.1 T")}  # Table 1
PAPER_UNETS = {("SD 2.1", 128): "1.35 T", ("CE-UNet", 128): "0.73 T"}  # section 3.3
# Table 4: steps, parameters, multiply-adds of whole systems, text encoder and tagger included.
PAPER_SYSTEMS = {
    "StableSR": (200, "1.56 B", "79.94 T"),
    "DiffBIR": (50, "1.68 B", "24.31 T"),
    "SeeSR": (50, "2.51 B", "65.86 T"),
    "PASD": (20, "2.31 B", "29.13 T"),
    "S3Diff": (1, "1.33 B", "2.62 T"),
    "OSEDiff": (1, "1.77 B", "2.27 T"),
    "TVT": (1, "1.72 B", "1.97 T"),
}
# Tables 5 and 7: multiply-adds of `SYSTEMS`, counted likewise.
PAPER_ABLATIONS = {
    "V1": "3.02 T",
    "V2": "2.40 T",
    "S1": "2.27 T",
    "S2": "2.27 T",
    "S3": "2.27 T",
    "S4": "2.59 T",
    "S5": "2.00 T",
    "TVT": "1.97 T",
}
# Systems of Table 4 whose networks are here; OSEDiff's are those of S1.
_OURS = {"OSEDiff": "S1", "TVT": "TVT"}
_TITLES = ("parameters", "layers", "with attention", "paper: parameters", "paper: count")


def complexity_report(measured: Sequence[Speed] = ()) -> str:
    """The paper's tables of cost with ours beside them, for a 512 px image, in Markdown.

    Args:
      measured: some of `SYSTEMS` on the machine at hand.
    """
    vaes = {name: vae_cost(config) for name, config in VAES.items()}
    unets = {
        (unet, side, VAES[vae].latent_channels): unet_cost(system_unet(vae, unet), side)
        for vae, unet, side in SYSTEMS.values()
    }
    text, tagger = text_encoder_cost(), tagger_cost()
    costs = {
        name: vaes[vae] + unets[unet, side, VAES[vae].latent_channels] + text + tagger
        for name, (vae, unet, side) in SYSTEMS.items()
    }
    networks = [
        (f"{name}, encoder + decoder", cost, *PAPER_VAES.get(name, ("", "")))
        for name, cost in vaes.items()
    ]
    networks += [
        (f"UNet {name}, latent {side}x{side}x{c}", cost, "", PAPER_UNETS.get((name, side), ""))
        for (name, side, c), cost in sorted(unets.items())
    ]
    networks += [("text encoder", text, "", ""), ("tagger RAM, 384 px", tagger, "", "")]
    table4 = [
        (f"{name}, steps: {steps}", costs.get(_OURS.get(name)), parameters, count)
        for name, (steps, parameters, count) in PAPER_SYSTEMS.items()
    ]
    tables = {
        "Networks (Table 1, section 3.3)": networks,
        "Systems (Table 4), with text encoder and tagger": table4,
    }
    for title, names in {
        "Ablations of the VAE (Table 5)": ("V1", "V2", "TVT"),
        "Ablations of the UNet (Table 7)": ("S1", "S2", "S3", "S4", "S5", "TVT"),
    }.items():
        tables[title] = [
            (f"{name}: {vae} + {unet}", costs[name], "", PAPER_ABLATIONS[name])
            for name in names
            for vae, unet, _ in [SYSTEMS[name]]
        ]
    lines = [
        "Multiply-adds for a 512 px image. `layers` are convolutions and linear layers, which the",
        "paper counts; `with attention` adds attention's two matrix products.",
    ]
    for title, rows in tables.items():
        cells = [(name, *_cells(cost), *paper) for name, cost, *paper in rows]
        lines += ["", title, "", *_table(("", *_TITLES), cells)]
    if measured:
        title = "Measured: VAE and UNet with random weights"
        lines += ["", title, "", speed_table(measured)]
    return "\n".join(lines)


def _cells(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return ("", "", "")
    counts = (cost.layers, cost.layers + cost.attention)
    return (f"{cost.parameters / 1e6:.2f} M", *(f"{count / 1e12:.4f} T" for count in counts))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [lines[0], "|---" * len(titles) + "|", *lines[1:]]
