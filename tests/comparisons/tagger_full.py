"""`make tagger-full`: the tagger at full size, from the release's files to tags.

Writes files of the release's names, shapes and size (RAM with its optimizer, 5.6 GB; weights that
follow from the tensors' names), converts them, and tags images here and in PyTorch. Every step
runs in a process of its own, so that peak memory is its own. Prints:
 - memory of the conversion, which must stay under 4 GiB;
 - the greatest difference of a probability to PyTorch's, and whether all tags agree;
 - seconds and CPU seconds an image, here and in PyTorch, and peak memory;
 - the share of tags that bfloat16 changes.

With `--ram-data` (ram/data of github.com/xinyu1205/recognize-anything) the real thresholds are
used, and the numbers of tags must be those that the original gave for two drawn images.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.support import ram_files

SIDE = 384
GIB = 2**30
FREE_DISK = 12 * GIB
CONVERSION_LIMIT = 4.0  # GiB
# Logits agree to 1e-5, and a sigmoid is at most a quarter as steep.
TOLERANCE = 2.5e-6
# Tags of the two drawn images in the original, with the real thresholds.
ORIGINAL_COUNTS = {"ram": [68, 7], "dape": [77, 5]}


def images(count: int) -> list[np.ndarray]:
    """The two drawn images, then bundled photographs."""
    from PIL import Image

    import tvt_jax

    folder = Path(tvt_jax.__file__).parent / "assets" / "photographs"
    drawn = [ram_files.image(number, SIDE, SIDE) for number in (0, 1)]
    paths = sorted(folder.rglob("*.jpg"))[: count - 2]
    return drawn + [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def write(folder: Path, options) -> dict:
    """Writes the checkpoints. Moments are untouched zeros, which take no memory."""
    import torch

    model = {name: torch.from_numpy(a) for name, a in ram_files.state("ram", "full").items()}
    parameters = list(model.values())
    for name, shape in ram_files.shapes("full", "unused").items():
        tied = model.get(name.replace("tag_encoder", "tagging_head"))
        model[name] = torch.zeros(shape) if tied is None else tied
        if tied is None:
            parameters.append(model[name])
    for name, shape in ram_files.shapes("full", "buffer").items():
        model[name] = torch.zeros(shape)
    moments = {
        number: {kind: torch.zeros(p.shape) for kind in ("exp_avg", "exp_avg_sq")}
        for number, p in enumerate(parameters)
    }
    optimizer = {"state": moments, "param_groups": [{"params": list(moments)}]}
    torch.save({"model": model, "optimizer": optimizer, "epoch": 4}, folder / "ram.pth")
    torch.save(ram_files.dape_checkpoint("full"), folder / "dape.pth")
    if options.ram_data is None:
        ram_files.write_ram_data(folder / "data", np.full(4585, 0.65))
    else:
        shutil.copytree(options.ram_data, folder / "data")
    return {"gib": (folder / "ram.pth").stat().st_size / GIB}


def convert(folder: Path, options, kind: str) -> dict:
    """Converts as the command does."""
    from tvt_jax.conversion import tagger

    if options.ram_data is None:  # made-up lists in the place of those that we do not have
        for name in tagger._SHA256:
            content = (folder / "data" / name).read_bytes()
            tagger._SHA256[name] = hashlib.sha256(content).hexdigest()
    dape = folder / "dape.pth" if kind == "dape" else None
    start = time.perf_counter()
    tagger.convert_tagger(folder / "ram.pth", folder / "data", folder / kind, dape, report=len)
    return {"seconds": time.perf_counter() - start}


def run_pytorch(folder: Path, options) -> dict:
    """Tags one image at a time with the reference."""
    import safetensors.torch
    import torch

    from tests.support.torch_tagger import TorchTagger
    from tvt_jax.config import RAM_SWIN_LARGE
    from tvt_jax.inference.tagging import resize

    reference = TorchTagger(RAM_SWIN_LARGE).eval()
    state = safetensors.torch.load_file(folder / "dape" / "tagger" / "model.safetensors")
    reference.load_state_dict(state, assign=True)

    def tag(image):
        pixels = (resize(image, SIDE, False) - ram_files.MEAN) / ram_files.DEVIATION
        return reference(torch.from_numpy(pixels).permute(2, 0, 1)[None]).sigmoid()[0].numpy()

    return _measure(tag, folder / "pytorch.npy", options)


def run_here(folder: Path, options, kind: str, dtype: str) -> dict:
    """Tags one image at a time with the tagger of this package."""
    from tvt_jax.inference.tagging import load_tagger

    tagger = load_tagger(folder / kind, dtype, batch_size=1)
    start = time.perf_counter()
    next(tagger.probabilities(images(2)))
    first = time.perf_counter() - start
    result = _measure(
        lambda image: next(tagger.probabilities([image])), folder / f"{kind}_{dtype}.npy", options
    )
    return {**result, "first_seconds": first}


def _measure(tag, path: Path, options) -> dict:
    """Tags every image; wall-clock and CPU seconds of the fastest, and all probabilities."""
    rows, wall, cpu = [], [], []
    for image in images(options.images):
        start, cpu_start = time.perf_counter(), time.process_time()
        rows.append(tag(image))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    np.save(path, np.stack(rows))
    return {"seconds": min(wall), "cpu_seconds": min(cpu), "median": float(np.median(wall))}


STEPS = {
    "write": write,
    "convert ram": lambda f, o: convert(f, o, "ram"),
    "convert dape": lambda f, o: convert(f, o, "dape"),
    "pytorch": run_pytorch,
    "here": lambda f, o: run_here(f, o, "dape", "float32"),
    "here, plain": lambda f, o: run_here(f, o, "ram", "float32"),
    "here, bfloat16": lambda f, o: run_here(f, o, "dape", "bfloat16"),
}


def report(folder: Path, options, results: dict) -> list[str]:
    """Prints what was found; returns what is wrong."""
    thresholds = np.loadtxt(folder / "data" / "ram_tag_list_threshold.txt", dtype=np.float32)
    names = ("pytorch", "dape_float32", "ram_float32", "dape_bfloat16")
    found = {name: np.load(folder / f"{name}.npy") for name in names}
    tags = {name: rows > thresholds for name, rows in found.items()}
    difference = float(np.abs(found["dape_float32"] - found["pytorch"]).max())
    changed = int((tags["dape_bfloat16"] != tags["dape_float32"]).sum())
    total = int(tags["dape_float32"].sum())
    counts = {kind: tags[f"{kind}_float32"][:2].sum(axis=1).tolist() for kind in ORIGINAL_COUNTS}

    print(f"{len(tags['pytorch'])} images, one at a time, float32, CPU")
    for kind in ("ram", "dape"):
        step = results[f"convert {kind}"]
        print(f"  conversion of {results['write']['gib']:.2f} GiB ({kind}): "
              f"{step['seconds']:.0f} s, peak {step['peak_gib']:.2f} GiB")  # fmt: skip
    for name in ("pytorch", "here", "here, bfloat16"):
        step = results[name]
        print(
            f"  {name:15} {step['seconds']:.2f} s, {step['cpu_seconds']:.2f} CPU s an image "
            f"(fastest), median {step['median']:.2f} s, peak {step['peak_gib']:.2f} GiB"
        )
    print(f"  first image here: {results['here']['first_seconds']:.1f} s (load and compile)")
    print(f"  greatest difference of a probability to PyTorch {difference:.1e}")
    print(f"  tags of the drawn images {counts}")
    print(f"  tags of every image with DAPE {tags['dape_float32'].sum(axis=1).tolist()}")
    print(f"  bfloat16 changes {changed} of {total} tags ({changed / max(total, 1):.2%})")
    problems = []
    if max(results[f"convert {kind}"]["peak_gib"] for kind in ("ram", "dape")) > CONVERSION_LIMIT:
        problems.append(f"conversion takes more than {CONVERSION_LIMIT} GiB")
    if difference > TOLERANCE or (tags["dape_float32"] != tags["pytorch"]).any():
        problems.append("the tags differ from PyTorch's")
    if options.ram_data is not None and counts != ORIGINAL_COUNTS:
        problems.append(f"the original has {ORIGINAL_COUNTS} tags")
    return problems


def main() -> None:
    """Runs all steps; exit status 1 if a bound is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=6, help="how many are tagged, at least 2")
    parser.add_argument("--ram-data", type=Path, help="folder with RAM's two lists")
    parser.add_argument("--only", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        result = STEPS[options.only](options.folder, options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        print(json.dumps({**result, "peak_gib": peak}))
        return

    with tempfile.TemporaryDirectory() as folder:
        if shutil.disk_usage(folder).free < FREE_DISK:
            sys.exit(f"{folder} needs {FREE_DISK / GIB:.0f} GiB of free disk; set TMPDIR")
        results = {}
        for step in STEPS:
            command = [
                sys.executable,
                "-m",
                "tests.comparisons.tagger_full",
                *sys.argv[1:],
                "--only",
                step,
            ]
            done = subprocess.run(
                [*command, "--folder", folder], stdout=subprocess.PIPE, text=True, check=True,
                env=os.environ,
            )  # fmt: skip
            results[step] = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{step}: {results[step]}", file=sys.stderr)
        problems = report(Path(folder), options, results)
    if problems:
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
