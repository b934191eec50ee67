"""Where tiles are cut, what they see, and the statistics of what counts of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from tvt_jax.inference.norm_statistics import GivenStatistics, JointStatistics, Parts, Statistics
from tvt_jax.inference.sizing import EnlargedInput, enlarge, pad, plan_sizes
from tvt_jax.inference.tiling import Tiles, cut, cut_side, quarters, sample_crops
from tvt_jax.models.layers import GroupNorm, InitKeys, group_norm_statistics


def test_own_parts_follow_each_other_and_tiles_keep_the_phase():
    rng = np.random.default_rng(0)
    for _ in range(300):
        length = 8 * int(rng.integers(1, 600))
        margin = 64 * int(rng.integers(0, 3))
        tiles = Tiles(2 * margin + 64 * int(rng.integers(2, 10)), margin, 64, 16)
        spans = cut_side(length, tiles)
        assert spans[0].first == 0 and spans[-1].last == spans[-1].stop == length
        for before, after in zip(spans, spans[1:], strict=False):
            assert before.last == after.first and after.first % 64 == 0
        for span in spans:
            assert span.start % 64 == 0 and span.stop - span.start <= tiles.side
            assert span.first - span.start >= margin or span.start == 0
            assert span.stop - span.last >= margin or span.stop == length
        lengths = {span.stop - span.start for span in spans}
        assert len(lengths) <= 2 and (length < tiles.side or min(lengths) > tiles.side - 64)


def test_quarters_fill_a_tile_and_see_more():
    size, tiles = (1200, 1304), Tiles(512, 64, 64, 16)
    for tile in cut(size, tiles):
        covered = np.zeros(size, int)
        for quarter in quarters(tile, size, tiles):
            covered[quarter.own(size)] += 1
            assert max(s.stop - s.start for s in quarter) <= 512
            for span, length in zip(quarter, size, strict=True):
                assert span.start % 64 == 0
                assert span.first - span.start >= 128 or span.start == 0
                assert span.stop - span.last >= 128 or span.stop == length
        assert (covered[tile.own(size)] == 1).all() and covered.sum() == covered[
            tile.own(size)
        ].size


def test_the_sample_lies_in_the_image():
    """And has one shape, so that one program serves all sizes."""
    for size in ((128, 128), (96, 5000), (1000, 704), (4000, 104)):
        crops = sample_crops(size, Tiles(512, 64, 64, 36))
        assert len(crops) == 36
        assert {tuple(s.stop - s.start for s in crop) for crop in crops} == {(96, 96)}
        for crop in crops:
            for span, length in zip(crop, size, strict=True):
                assert 0 <= span.start <= span.first < span.last <= span.stop <= length
                assert span.start % 64 == 0


@pytest.mark.parametrize(("size", "scale"), [((150, 171), 4), ((150, 171), 1), ((40, 60), 4)])
def test_parts_of_the_enlargement_are_the_enlargement_cut(size, scale):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    plan = plan_sizes(size[1], size[0], scale)
    whole, source = pad(enlarge(image, plan), 8), EnlargedInput(image, plan, 8)
    assert source.padded == whole.shape[:2] and source.size == plan.working[::-1]
    for tile in cut(source.padded, Tiles(256, 64, 64, 16)):
        rows, columns = tile
        want = whole[rows.start : rows.stop, columns.start : columns.stop]
        np.testing.assert_array_equal(source.read(tile), want)


def test_given_and_joint_statistics_are_those_of_the_positions_that_count():
    """Two levels, rounded up; against numpy in float64."""
    rng = np.random.default_rng(0)
    norm = GroupNorm(6, 3, 1e-5, dtype=jnp.float32, param_dtype=jnp.float32, rngs=InitKeys(0))
    fine, coarse = (
        rng.normal(size=(2, h, w, 6)).astype(np.float32) + 5 for h, w in ((16, 12), (3, 2))
    )  # a crop of 16 x 12 px, and its eighth
    own = np.array([[0, 16, 0, 8], [8, 16, 0, 12]], np.int32)
    parts = Parts(own, np.array([[16, 12], [14, 12]], np.int32))
    np.testing.assert_array_equal(parts.without_padding().own, [own[0], [8, 14, 0, 12]])
    counted = [(fine, 0, np.s_[:, :8]), (fine, 1, np.s_[8:, :])]
    counted_coarse = [(coarse, 0, np.s_[:2, :1]), (coarse, 1, np.s_[1:2, :])]
    wanted = []
    for places in (counted, counted_coarse):
        for group in range(3):
            values = np.concatenate(
                [x[b][place][..., 2 * group : 2 * group + 2].ravel() for x, b, place in places]
            ).astype(np.float64)
            wanted.append((len(values), values.mean(), values.var()))
    number, mean, variance = np.array(wanted).T
    joint = JointStatistics(parts, (16, 12), Statistics(jnp.zeros(6), jnp.ones(6)))
    with group_norm_statistics(joint):
        got = norm(fine), norm(coarse)
    np.testing.assert_allclose(joint.found().mean, mean, rtol=1e-6)
    np.testing.assert_allclose(joint.found().variance, variance, rtol=1e-5)
    # Each crop by itself, given other statistics: the same norm, and sums about the given mean.
    sums = 0
    for b in (0, 1):
        given = GivenStatistics(Parts(*(p[b : b + 1] for p in parts)), (16, 12), joint.found())
        with group_norm_statistics(given):
            alone = norm(fine[b : b + 1]), norm(coarse[b : b + 1])
        for whole, part in zip(got, alone, strict=True):
            np.testing.assert_allclose(part[0], whole[b], atol=1e-5)
        sums = sums + np.stack([np.asarray(x, np.float64) for x in given.sums()])
    np.testing.assert_array_equal(sums[0], number)
    np.testing.assert_allclose(sums[1] / number, 0, atol=1e-5)
    np.testing.assert_allclose(sums[2] / number, variance, rtol=1e-5)


def test_without_a_context_a_norm_takes_its_own_statistics():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    norm = GroupNorm(4, 2, 1e-5, dtype=jnp.float32, param_dtype=jnp.float32, rngs=InitKeys(0))
    before = norm(x)
    with group_norm_statistics(lambda x, groups: (x, jnp.ones((1, 1, 1, 1)))):
        np.testing.assert_allclose(norm(x), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(norm(x), before)
