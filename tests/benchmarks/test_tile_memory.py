"""Memory of tiles from the compiler, with small networks in place of the full-size ones."""

import pytest

from tests.support.local_networks import local_networks
from tvt_jax.benchmarks import tile_memory
from tvt_jax.errors import UserError


def test_memory_is_counted_and_within_what_infer_expects(monkeypatch):
    for name, network in zip(("VAE_D4", "CE_UNET"), local_networks(), strict=True):
        monkeypatch.setattr(tile_memory, name, network.config)
    table = tile_memory.tile_memory_table((512,), (16,), None, "float32")
    tile, sample = (row.strip("| ").split(" | ") for row in table.splitlines()[2:])
    assert (tile[0], sample[0]) == ("a tile of 512 px", "a sample of 16 crops")
    for row in (tile, sample):
        besides, expected = float(row[3]), float(row[4])
        assert 0 < besides < expected


@pytest.mark.parametrize(
    ("sides", "crops", "match"),
    [
        ((512, 100), (16,), "`sides` 100 must be a multiple of 64 px"),
        ((0,), (16,), "`sides` 0 must be"),
        ((512,), (0,), "`crops` must be at least 1"),
    ],
)
def test_numbers_that_cannot_be(sides, crops, match):
    with pytest.raises(UserError, match=match):
        tile_memory.tile_memory_table(sides, crops, None, "float32")
