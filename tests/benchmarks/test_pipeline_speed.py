"""The measurement counts what was made; how fast that is, is no matter of a test."""

from tests.support.image_files import write_images
from tvt_jax.benchmarks.pipeline_speed import pipeline_speed
from tvt_jax.config import DataConfig


def test_every_number_of_workers_is_measured(tmp_path):
    config = DataConfig(train=str(write_images(tmp_path, 8)), crop=16, batch_size=2, prefetch=1)
    (speed,) = pipeline_speed(config, (0,), count=3, rounds=2)
    assert speed.workers == 0 and speed.samples_per_second > 0
    assert 0 < speed.cpu_seconds < 2  # a sample of 16 px takes milliseconds
