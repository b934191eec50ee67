"""Memory of tiles from the compiler, with small networks in place of the full-size ones."""

from tests.support.local_networks import local_networks
from tvt_jax.benchmarks import tile_memory


def test_memory_grows_with_tiles_and_stays_within_what_infer_expects(monkeypatch):
    for name, network in zip(("VAE_D4", "CE_UNET"), local_networks(), strict=True):
        monkeypatch.setattr(tile_memory, name, network.config)
    table = tile_memory.tile_memory_table((512, 1024), (16,), None, "float32")
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    programs = ["a tile of 512 px", "a tile of 1024 px", "a sample of 16 crops"]
    assert [row[0] for row in rows] == programs
    small, large, sample = ([float(x) for x in row[2:5]] for row in rows)
    assert 3 * small[1] < large[1] < large[2]
    assert sample[1] < sample[2]
