"""What is drawn: the settings of the public presets, and 10,000 recipes against their formulas."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tvt_jax.config import DEGRADATIONS, MILD, STRONG, DegradationConfig, DegradationPass
from tvt_jax.data.degradation import draw_recipe, smallest_side
from tvt_jax.data.degradation.recipe import (
    Blur,
    Enlarge,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Resize,
    Sinc,
)
from tvt_jax.errors import UserError

# The public files, key by key: first and second pass.
PUBLIC = {
    "mild": {
        "resize_prob": ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3)),
        "resize_range": ((0.3, 1.5), (0.6, 1.2)),
        "noise_range": ((1, 15), (1, 12)),
        "poisson_scale_range": ((0.05, 2.0), (0.05, 1.0)),
        "jpeg_range": ((60, 95), (60, 100)),
        "blur_prob": (1.0, 0.5),
        "blur_sigma": ((0.2, 3), (0.2, 1.5)),
    },
    "strong": {
        "resize_prob": ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3)),
        "resize_range": ((0.15, 1.5), (0.3, 1.2)),
        "noise_range": ((1, 30), (1, 25)),
        "poisson_scale_range": ((0.05, 3.0), (0.05, 2.5)),
        "jpeg_range": ((30, 95), (30, 95)),
        "blur_prob": (1.0, 0.8),
        "blur_sigma": ((0.2, 3), (0.2, 1.5)),
    },
}
SAME_IN_BOTH = {
    "gaussian_noise_prob": 0.5,
    "gray_noise_prob": 0.4,
    "sinc_prob": 0.1,
    "kernel_prob": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    "betag_range": (0.5, 4),
    "betap_range": (1, 2),
}
KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
SIZES = [7, 9, 11, 13, 15, 17, 19, 21]
SIDE = 2**22  # so large that sizes tell the factor to six digits
DRAWS = 10_000


@pytest.mark.parametrize("preset", PUBLIC)
def test_presets_hold_the_public_values(preset):
    config = DEGRADATIONS[preset]
    config.validate()
    for number, settings in enumerate((config.first, config.second)):
        expected = {name: values[number] for name, values in PUBLIC[preset].items()} | SAME_IN_BOTH
        assert dataclasses.asdict(settings) == expected
    assert (config.scale, config.final_sinc_prob) == (4, 0.8)
    assert config.kernel_sizes == tuple(SIZES)
    assert config.jpeg_codec == "diffjpeg" and config.plain_prob == 0
    assert not (
        config.aligned_resize or config.smooth_area_enlargement or config.enlarge_as_inference
    )
    assert DegradationConfig() == MILD


class Sample:
    """10,000 recipes, and their parts by pass."""

    def __init__(self, config):
        rng = np.random.default_rng(20)
        self.recipes = [draw_recipe(config, rng, SIDE, SIDE) for _ in range(DRAWS)]
        self.blurs, self.resizes, self.noises, self.jpegs = ([], []), ([], []), ([], []), ([], [])
        self.finals, self.jpeg_last, self.modes = [], [], []
        for recipe in self.recipes:
            # The second pass begins after the first JPEG.
            cut = 1 + next(i for i, o in enumerate(recipe.operations) if isinstance(o, Jpeg))
            first, second = recipe.operations[:cut], recipe.operations[cut:]
            blur, resize, noise, jpeg = first
            rest = list(second)
            blur2 = rest.pop(0) if isinstance(rest[0], Blur | Sinc) else None
            resize2, noise2, *rest = rest
            jpeg2 = next(o for o in rest if isinstance(o, Jpeg))
            self.jpeg_last.append(rest[-1] is jpeg2)
            rest.remove(jpeg2)
            to_low, *final = rest
            assert (to_low.height, to_low.width, to_low.scale) == (SIDE // 4, SIDE // 4, 0)
            assert len(final) <= 1 and all(isinstance(o, Sinc) for o in final)
            self.finals += final
            back = recipe.enlargement
            assert (back.height, back.width, back.scale) == (SIDE, SIDE, 0)
            self.modes.append([r.mode for r in (resize, resize2, to_low, back)])
            for number, parts in enumerate(
                [(blur, resize, noise, jpeg), (blur2, resize2, noise2, jpeg2)]
            ):
                for into, part in zip(
                    (self.blurs, self.resizes, self.noises, self.jpegs), parts, strict=True
                ):
                    into[number].append(part)


@pytest.fixture(scope="module", params=["mild", "strong"])
def sample(request):
    return request.param, Sample(DEGRADATIONS[request.param])


def uniform(values, low, high):
    """The values follow U(low, high)."""
    assert len(values) > 100
    if low == high:
        assert set(values) == {low}
        return
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def shares(values, probabilities):
    """The values have these probabilities."""
    counts = [sum(v == value for v in values) for value in probabilities]
    assert sum(counts) == len(values), "a value that is not expected"
    expected = np.array(list(probabilities.values())) * len(values)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("number", [0, 1])
def test_blur(sample, number):
    preset, drawn = sample
    public = PUBLIC[preset]
    blurs = [b for b in drawn.blurs[number] if b is not None]
    if number == 0:
        assert len(blurs) == DRAWS
    else:
        probability = public["blur_prob"][1]
        shares([b is not None for b in drawn.blurs[1]], {True: probability, False: 1 - probability})
    shares([b.size for b in blurs], dict.fromkeys(SIZES, 1 / 8))
    names = ["sinc" if isinstance(b, Sinc) else b.kind for b in blurs]
    kinds = {k: 0.9 * p for k, p in zip(KINDS, SAME_IN_BOTH["kernel_prob"], strict=True)}
    shares(names, {"sinc": 0.1, **kinds})

    sincs = [b for b in blurs if isinstance(b, Sinc)]
    uniform([b.cutoff for b in sincs if b.size < 13], math.pi / 3, math.pi)
    uniform([b.cutoff for b in sincs if b.size >= 13], math.pi / 5, math.pi)
    bells = [b for b in blurs if isinstance(b, Blur)]
    sigma = public["blur_sigma"][number]
    uniform([b.sigma_x for b in bells], *sigma)
    aniso = [b for b in bells if b.kind.endswith("aniso")]
    uniform([b.sigma_y for b in aniso], *sigma)
    uniform([b.theta for b in aniso], -math.pi, math.pi)
    assert abs(stats.pearsonr([b.sigma_x for b in aniso], [b.sigma_y for b in aniso])[0]) < 0.1
    iso = [b for b in bells if not b.kind.endswith("aniso")]
    assert all(b.sigma_y == b.sigma_x and b.theta == 0 for b in iso)

    beta = [b.beta for b in bells if b.kind.startswith("generalized")]
    shares([b < 1 for b in beta], {True: 0.5, False: 0.5})
    uniform([b for b in beta if b < 1], 0.5, 1)
    uniform([b for b in beta if b > 1], 1, 4)
    beta = [b.beta for b in bells if b.kind.startswith("plateau")]
    shares([b == 1 for b in beta], {True: 0.5, False: 0.5})
    uniform([b for b in beta if b > 1], 1, 2)


@pytest.mark.parametrize("number", [0, 1])
def test_resize(sample, number):
    preset, drawn = sample
    low, high = PUBLIC[preset]["resize_range"][number]
    resizes = drawn.resizes[number]
    base = SIDE if number == 0 else SIDE // 4
    if number == 0:
        factors = [r.scale for r in resizes]
        assert [r.height for r in resizes] == [math.floor(base * f) for f in factors]
    else:
        assert all(r.scale == 0 for r in resizes)
        factors = [(r.height + 0.5) / base if r.height != base else 1.0 for r in resizes]
    assert all(r.height == r.width for r in resizes)
    direction = ["up" if f > 1 else "down" if f < 1 else "keep" for f in factors]
    probabilities = PUBLIC[preset]["resize_prob"][number]
    shares(direction, dict(zip(("up", "down", "keep"), probabilities, strict=True)))
    uniform([f for f in factors if f > 1], 1, high)
    uniform([f for f in factors if f < 1], low, 1)


@pytest.mark.parametrize("place", range(4))
def test_modes(sample, place):
    modes = [m[place] for m in sample[1].modes]
    shares(modes, dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3))
    if place:  # independent of each other
        table = np.zeros((3, 3))
        names = sorted(set(modes))
        for m in sample[1].modes:
            table[names.index(m[place - 1]), names.index(m[place])] += 1
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("number", [0, 1])
def test_noise(sample, number):
    preset, drawn = sample
    noises = drawn.noises[number]
    shares([type(n) for n in noises], {GaussianNoise: 0.5, PoissonNoise: 0.5})
    shares([n.gray for n in noises], {True: 0.4, False: 0.6})
    gaussian = [n.sigma for n in noises if isinstance(n, GaussianNoise)]
    uniform(gaussian, *PUBLIC[preset]["noise_range"][number])
    poisson = [n.scale for n in noises if isinstance(n, PoissonNoise)]
    uniform(poisson, *PUBLIC[preset]["poisson_scale_range"][number])
    seeds = [n.seed for n in drawn.noises[0] + drawn.noises[1]]
    assert len(set(seeds)) == 2 * DRAWS
    uniform(np.array(seeds) / 2**63, 0, 1)


def test_jpeg_order_and_final_filter(sample):
    preset, drawn = sample
    for number in (0, 1):
        qualities = [j.quality for j in drawn.jpegs[number]]
        uniform(qualities, *PUBLIC[preset]["jpeg_range"][number])
        assert {j.codec for j in drawn.jpegs[number]} == {"diffjpeg"}
    shares(drawn.jpeg_last, {True: 0.5, False: 0.5})
    lengths = [sum(isinstance(o, Resize) for o in r.operations) for r in drawn.recipes]
    assert set(lengths) == {3}
    has_final = len(drawn.finals)
    shares([True] * has_final + [False] * (DRAWS - has_final), {True: 0.8, False: 0.2})
    shares([f.size for f in drawn.finals], dict.fromkeys(SIZES, 1 / 8))
    uniform([f.cutoff for f in drawn.finals], math.pi / 3, math.pi)


def test_the_generator_alone_decides():
    def draw(seed):
        return draw_recipe(STRONG, np.random.default_rng(seed), 128, 256)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    rng = np.random.default_rng(1)
    assert draw_recipe(STRONG, rng, 128, 256) == draw(1) != draw_recipe(STRONG, rng, 128, 256)


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------


def changed(config=MILD, **values):
    config = copy.deepcopy(config)
    for name, value in values.items():
        setattr(config, name, value)
    return config


def recipes(config, count=300, height=80, width=96):
    rng = np.random.default_rng(0)
    return [draw_recipe(config, rng, height, width) for _ in range(count)]


def test_the_first_resize_can_be_aligned():
    faithful, aligned = recipes(MILD), recipes(changed(aligned_resize=True))
    for before, after in zip(faithful, aligned, strict=True):
        assert before.operations[1].scale > 0
        assert after.operations[1] == dataclasses.replace(before.operations[1], scale=0.0)
        assert after.operations[2:] == before.operations[2:]


def test_area_need_not_enlarge_by_repeating_pixels():
    def enlarges_by_area(recipe):
        size, found = (recipe.height, recipe.width), []
        for operation in (*recipe.operations, recipe.enlargement):
            if isinstance(operation, Resize):
                found.append(operation.mode == "area" and operation.height > size[0])
                size = (operation.height, operation.width)
        return found

    faithful = np.array([enlarges_by_area(r) for r in recipes(STRONG)])
    assert faithful.any(0).all()
    assert faithful[:, -1].mean() == pytest.approx(1 / 3, abs=0.1)
    smooth = recipes(changed(STRONG, smooth_area_enlargement=True))
    assert not np.any([enlarges_by_area(r) for r in smooth])
    reduced_by_area = [r.operations[1].mode == "area" for r in smooth]
    assert any(reduced_by_area), "area still reduces"


def test_the_enlargement_can_be_that_of_inference():
    faithful, same = recipes(MILD, 20), recipes(changed(enlarge_as_inference=True), 1)
    assert same[0].operations == faithful[0].operations
    assert same[0].enlargement == Enlarge(80, 96)


def test_plain_images_are_blurred_and_reduced_and_nothing_else():
    drawn = recipes(changed(plain_prob=0.3, plain_blur_sigma=(0.5, 2.0)), 2000)
    plain = [r.operations for r in drawn if len(r.operations) == 2]
    assert len(plain) / 2000 == pytest.approx(0.3, abs=0.04)  # four standard deviations
    for blurred, reduced in plain:
        assert isinstance(blurred, Blur) and blurred.kind == "iso"
        assert reduced == Resize(20, 24, "area")
    uniform([blurred.sigma_x for blurred, _ in plain], 0.5, 2.0)


def test_the_codec_is_written_into_the_recipe():
    for recipe in recipes(changed(jpeg_codec="libjpeg"), 20):
        assert {o.codec for o in recipe.operations if isinstance(o, Jpeg)} == {"libjpeg"}


def test_the_low_resolution_follows_the_scale():
    config = changed(scale=2)
    for recipe in recipes(config, 20):
        low = [o for o in recipe.operations if isinstance(o, Resize)][-1]
        assert (low.height, low.width) == (40, 48)


@pytest.mark.parametrize(("config", "least"), [(MILD, 44), (STRONG, 76)])
def test_sizes_that_cannot_be(config, least):
    assert smallest_side(config) == least
    rng = np.random.default_rng(0)
    draw_recipe(config, rng, least, 2 * least)
    for size in ((least - 4, 512), (512, least - 4), (130, 128), (128, 131)):
        with pytest.raises(
            UserError, match=rf"{size[1]}x{size[0]} px .* multiples of 4 .* {least}"
        ):
            draw_recipe(config, rng, *size)


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("first", "kernel_prob", (0.5, 0.5)),
        ("first", "kernel_prob", (0.5, 0.25, 0.12, 0.03, 0.12, 0.03)),
        ("second", "resize_prob", (0.3, 0.3, 0.3)),
        ("second", "resize_range", (1.1, 1.2)),
        ("first", "resize_range", (0.0, 1.2)),
        ("first", "betap_range", (1.5, 2.0)),
        ("first", "blur_sigma", (0.0, 3.0)),
        ("first", "noise_range", (15.0, 1.0)),
        ("second", "poisson_scale_range", (-1.0, 1.0)),
        ("second", "jpeg_range", (60.0, 101.0)),
        ("second", "jpeg_range", (60.0,)),
        ("first", "gray_noise_prob", 1.4),
        (None, "final_sinc_prob", -0.1),
        (None, "plain_prob", 1.1),
        (None, "plain_blur_sigma", (0.0, 2.0)),
        (None, "kernel_sizes", (7, 8)),
        (None, "kernel_sizes", ()),
        (None, "scale", 0),
        (None, "jpeg_codec", "mozjpeg"),
    ],
)
def test_settings_that_cannot_be(where, name, value):
    config = copy.deepcopy(STRONG)
    setattr(getattr(config, where) if where else config, name, value)
    with pytest.raises(UserError, match=f"{where + '.' if where else ''}{name} = "):
        config.validate()


def test_all_mistakes_are_told_at_once():
    config = changed(first=DegradationPass(blur_prob=2.0, jpeg_range=(0.0, 5.0)), scale=0)
    with pytest.raises(UserError, match=r"first\.blur_prob.*first\.jpeg_range.*scale"):
        config.validate()
