"""By tiles as from the whole."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.local_networks import CONTEXT, local_networks
from tvt_jax import memory
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.config import SchedulerConfig
from tvt_jax.errors import UserError
from tvt_jax.files import claimed
from tvt_jax.images import read_image, write_image
from tvt_jax.inference import memory_plan, sizing, tile_programs, tiled, unfinished
from tvt_jax.inference.memory_plan import plan_memory
from tvt_jax.inference.norm_statistics import Parts
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.inference.posterior_noise import posterior_noise
from tvt_jax.inference.sizing import EnlargedInput, SizePlan
from tvt_jax.inference.tile_programs import Batch
from tvt_jax.inference.tiled import TiledRestoration
from tvt_jax.inference.tiling import Span, Tile, Tiles
from tvt_jax.inference.unfinished import Unfinished
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.text import Text

TILES = dict(tile=96, tile_overlap=32)
TEXT = Text(np.zeros((1, 3, CONTEXT), np.float32), lambda params, tokens: params, 8)


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler(*local_networks(), TEXT, SchedulerConfig())


def compile_optimised(lowered, what, advice, options):
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 3})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(memory_plan, "_CROPS", (4,))
    monkeypatch.setattr(sizing, "_PROCESS_SIZE", 32)  # else all images are enlarged to 512 px
    # These run longer than they compile: what the flags of the tests save is lost many times.
    monkeypatch.setattr(memory, "compile_program", compile_optimised)


def photograph(height=101, width=125):
    """Brighter to the right, busier to the bottom: no tile has the statistics of the whole."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    noise = np.random.default_rng(0).normal(0, 1, (height, width, 3)) * 60 * y[..., None]
    waves = 120 * np.stack([x, x * y, 0.5 + 0.3 * np.sin(9 * x)], -1)
    return np.clip(60 + waves + noise, 0, 255).astype(np.uint8)


def whole_as_one(upscaler, image):
    """(Source, the embedding, the true statistics of the image as the networks see it whole)."""
    size = (image.shape[1], image.shape[0])
    source = EnlargedInput(image, SizePlan(size, size, size), 8)
    context = upscaler._context(RestorationOptions(), (), print)
    spans = [Span(0, n, 0, n) for n in source.padded]
    own = np.array([[0, source.padded[0], 0, source.padded[1]]], np.int32)
    parts = Parts(own, np.array([source.size], np.int32))
    image = source.read(Tile(*spans))
    return (
        source,
        context,
        upscaler._tile_programs.sample(Batch(image[None], parts, None), context, None, print),
    )


@pytest.mark.parametrize("method", ["none", "adain", "wavelet", "lab"])
def test_with_the_true_statistics_tiles_are_the_whole(upscaler, method):
    """All but the statistics is local: to float32's rounding, beyond the networks' reach."""
    image = photograph(190, 211)  # no multiple of anything
    want = upscaler.restore(image, tile="none", color_fix=method)
    assert np.abs(want - image / np.float32(255)).max() > 0.02  # the networks do something
    source, context, true = whole_as_one(upscaler, image)
    work = Unfinished(np.empty(image.shape, np.float32), sweep=1, statistics=true)
    tiles = Tiles(160, 64, 2, 16)
    accuracy = TiledRestoration(
        upscaler._tile_programs,
        source,
        context,
        method,
        0.0,
        None,
        tiles,
        work,
        print,
        lambda *steps: None,
    )()
    np.testing.assert_allclose(work.pixels, want, atol=1e-4)
    assert accuracy.corrected < 1e-4 and accuracy.seam < 0.01


def test_the_sample_is_corrected(upscaler):
    """What is left of its error is small, and said; random networks are the worst case."""
    image, lines = photograph(), []
    want = upscaler.restore(image, tile="none")
    got = upscaler.restore(image, report=lines.append, **TILES)
    assert np.abs(got - want).mean() * 255 < 1
    assert lines[0].startswith("125x101 px by 4 tiles of 96 px; about")
    known, sampled = map(float, re.findall(r"([0-9.]+) %", lines[-1]))
    assert known < sampled / 3


def test_statistics_that_are_not_known_well_are_corrected_again(upscaler, tmp_path, monkeypatch):
    monkeypatch.setattr(tiled, "_KNOWN", 0.0)
    image, lines, options = photograph(), [], RestorationOptions(**TILES, scale=1)
    want = upscaler.upscale(image, options, report=lines.append).image
    before, after = (float(re.search(r"([0-9.]+) %", line)[1]) for line in lines[-2:])
    assert "once more" in lines[-2] and after < before / 3
    with pytest.raises(PowerCut):  # after two of four tiles of the third sweep
        upscaler.upscale(image, options, progress=StopAfter(12), folder=tmp_path)
    steps = []
    result = upscaler.upscale(
        image, options, progress=lambda *step: steps.append(step), folder=tmp_path
    )
    assert steps[0] == (10, 12)
    np.testing.assert_array_equal(result.image, want)


def test_one_tile_that_covers_is_the_whole_exactly(upscaler):
    want = upscaler.restore(photograph(), tile="none")
    got = upscaler.restore(photograph(), tile=128, tile_overlap=32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_one_program_for_the_sample_and_one_for_tiles_serve_all_sizes(upscaler, count):
    fresh, lines = Upscaler(upscaler._vae, upscaler._unet, TEXT, SchedulerConfig()), []
    for size in np.random.default_rng(0).integers(97, 160, (count, 2)):
        fresh.restore(photograph(*size), report=lines.append, **TILES)
    assert sum(line.startswith("compiling for") for line in lines) == 2


# --------------------------------------------------------------------------------------------------
# Interrupted, not finite, dead
# --------------------------------------------------------------------------------------------------


class PowerCut(Exception):
    """Ends a restoration without a word."""


class StopAfter:
    """A progress callback that ends the work after some steps."""

    def __init__(self, steps):
        self.steps_left = steps

    def __call__(self, done, total):
        self.steps_left -= 1
        if self.steps_left < 0:
            raise PowerCut


def test_an_interrupted_restoration_goes_on(upscaler, tmp_path):
    image, options = photograph(), RestorationOptions(**TILES, scale=1)
    want = upscaler.upscale(image, options).image
    for steps in (1, 2, 3):
        with pytest.raises(PowerCut):
            upscaler.upscale(image, options, progress=StopAfter(steps), folder=tmp_path / "work")
    lines, steps = [], []
    result = upscaler.upscale(
        image, options, folder=tmp_path / "work",
        report=lines.append, progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert lines[1] == f"going on where {tmp_path / 'work'} was left" and steps[0] == (5, 8)
    np.testing.assert_array_equal(result.image, want)
    # Another image, or other options, begin anew.
    for other in (image[::-1], image):
        lines = []
        options = RestorationOptions(**TILES, scale=1, color_fix="none")
        got = upscaler.upscale(other, options, folder=tmp_path / "work", report=lines.append).image
        assert not any("going on" in line for line in lines)
        np.testing.assert_array_equal(got, upscaler.upscale(other, options).image)


def test_a_file_that_is_interrupted_goes_on(upscaler, tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "a.png", tmp_path / "large.png"
    write_image(source, photograph())
    options = RestorationOptions(**TILES, scale=1)
    real = Upscaler.upscale
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(
            Upscaler,
            "upscale",
            lambda self, *a, **given: real(self, *a, **given, progress=StopAfter(5)),
        )
        upscaler.upscale_file(source, target, options)
    assert not target.exists() and (tmp_path / ".large.png.unfinished").is_dir()
    with claimed(target), pytest.raises(UserError, match="`target` .* another process's work"):
        upscaler.upscale_file(source, target, options)
    capsys.readouterr()
    upscaler.upscale_file(source, target, options)
    assert "going on where" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "large.png"]
    want = upscaler.upscale(photograph(), options).image
    np.testing.assert_array_equal(read_image(target), want)


def test_a_full_disk_is_said_before_any_work(upscaler, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished, "_allocate", full)
    with pytest.raises(UserError, match="cannot keep .* GiB in .*work: .*No space left"):
        upscaler.upscale(photograph(), RestorationOptions(**TILES), folder=tmp_path / "work")


@pytest.mark.slow
def test_a_tile_that_is_not_finite_in_16_bits_is_done_in_32(upscaler, monkeypatch):
    """One of them: the others are done once."""
    real = tile_programs.restore_tile

    def overflowing(networks, config, alpha_bar, tile, *arguments):
        result, finite = real(networks, config, alpha_bar, tile, *arguments)
        if networks[1].dtype == jnp.float32:
            return result, finite
        return result, finite & (tile.images.astype(jnp.float32).mean() < 112)

    monkeypatch.setattr(tile_programs, "restore_tile", overflowing)
    low = Upscaler(upscaler._vae, upscaler._unet.with_dtype(jnp.bfloat16), TEXT, SchedulerConfig())
    image, lines = photograph(), []
    got = low.restore(image, report=lines.append, **TILES)
    assert np.isfinite(got).all()
    named = [line for line in lines if "is not finite in bfloat16: once more in float32" in line]
    assert named and all("the tile at " in line for line in named)


def test_noise_of_a_sample_is_the_same_in_tiles():
    whole = posterior_noise(3, Tile(Span(0, 160, 0, 160), Span(0, 200, 0, 200)), 2, 4)
    assert whole.shape == (80, 100, 4) and abs(whole.std() - 1) < 0.03
    part = posterior_noise(3, Tile(Span(30, 130, 0, 0), Span(64, 200, 0, 0)), 2, 4)
    np.testing.assert_array_equal(part, whole[15:65, 32:])
    other = posterior_noise(4, Tile(Span(0, 160, 0, 160), Span(0, 200, 0, 200)), 2, 4)
    assert abs(np.corrcoef(whole.ravel(), other.ravel())[0, 1]) < 0.03


def test_what_is_never_finite_is_refused(upscaler, monkeypatch):
    def poisoned(*arguments):
        (pixels, sums), finite = real(*arguments)
        return (pixels, sums), finite & False

    real = tile_programs.restore_tile
    monkeypatch.setattr(tile_programs, "restore_tile", poisoned)
    fresh = Upscaler(upscaler._vae, upscaler._unet, TEXT, SchedulerConfig())
    with pytest.raises(UserError, match="not finite"):
        fresh.restore(photograph(), **TILES)


def test_a_dead_tile_is_done_again(upscaler, monkeypatch):
    image, lines, dead = photograph(), [], []
    want = upscaler.restore(image, **TILES)
    real = tile_programs.TilePrograms.restore

    def dying(self, tile, context, statistics, what, report):
        pixels, sums = real(self, tile, context, statistics, what, report)
        if what == "the tile at 64,0" and len(dead) < 2:  # in both sweeps, not in quarters
            dead.append(what)
            pixels = pixels * 0
        return pixels, sums

    monkeypatch.setattr(tile_programs.TilePrograms, "restore", dying)
    got = upscaler.restore(image, report=lines.append, **TILES)
    [line] = [line for line in lines if "from its neighbours" in line]
    assert line.startswith("the tile at 64,0 differs by") and line.endswith("by 0.0")
    np.testing.assert_allclose(got, want, atol=2e-3)


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "free", "match"),
    [
        (dict(tile=101), 2**40, "`tile` 101 must be a multiple of 2 px and at least 130"),
        (dict(tile="none", max_memory=0.001), 2**40, "takes about .* leave `tile` to be chosen"),
        (dict(tile=256), 2**20, "by tiles of 256 px takes about .* use a smaller `tile`"),
        (dict(), 2**20, "by tiles of 512 px takes about 0.1 GiB of memory and 0.0 GiB are free"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(upscaler, monkeypatch, options, free, match):
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    monkeypatch.setattr(upscaler, "_tile_programs", None)
    with pytest.raises(UserError, match=match):
        upscaler(photograph(600, 700), **options)


def test_tiles_follow_the_memory(upscaler, monkeypatch):
    sides = []
    for free in (2**40, 1.2 * 2**30, 2**28):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        how = plan_memory((4000, 4000), upscaler._vae.config, 2, RestorationOptions())
        sides.append(None if how.tiles is None else how.tiles.side)
    assert sides[0] is None and 1024 >= sides[1] > sides[2] >= 512


# --------------------------------------------------------------------------------------------------
# The bundled model
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    return Upscaler.from_folder()


@pytest.mark.slow  # two minutes, most of it compiling
@pytest.mark.parametrize("kind", ["photograph", "gradient", "noise"])
def test_the_bundled_model_by_tiles_and_whole(bundled, kind, monkeypatch):
    """Its own attention sees a tile in the place of the whole image: to a level or two."""
    monkeypatch.undo()
    if kind == "photograph":
        image = read_image(sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))[0])[:150, :171]
    elif kind == "gradient":
        y, x = np.mgrid[:150, :171] / 171
        image = (255 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8)
    else:
        image = np.random.default_rng(0).integers(0, 256, (150, 171, 3), np.uint8)
    want = bundled(image, tile="none")
    got = bundled(image, tile=512)
    difference = np.abs(got.astype(int) - want)
    print(f"{kind}: {difference.max()} levels at most, {difference.mean():.3f} in the mean")
    assert difference.max() <= 1
    # Statistics known to 0.8 % shift the gradient by 0.2 levels everywhere.
    assert difference.mean() < 0.02 or kind == "gradient"
