"""Memory of tiles from the compiler, with small networks in place of the full-size ones."""

from tests.support.local_networks import local_networks
from tvt_jax.benchmarks import tile_memory


def test_memory_is_counted_and_within_what_infer_expects(monkeypatch):
    for name, network in zip(("VAE_D4", "CE_UNET"), local_networks(), strict=True):
        monkeypatch.setattr(tile_memory, name, network.config)
    table = tile_memory.tile_memory_table((512,), (16,), None, "float32")
    tile, sample = (row.strip("| ").split(" | ") for row in table.splitlines()[2:])
    assert (tile[0], sample[0]) == ("a tile of 512 px", "a sample of 16 crops")
    [_, tile, expected], [_, sample, _] = ([float(x) for x in row[2:5]] for row in (tile, sample))
    assert 0 < sample < tile < expected
