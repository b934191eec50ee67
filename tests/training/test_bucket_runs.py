"""Runs in a bucket, by gcsfs, Orbax and TensorStore against a local server: `make test-gcs`."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests.support.bucket_server import bucket_server
from tests.training.small_run import read_metrics, read_weights, small_config
from tvt_jax.errors import UserError
from tvt_jax.training.loop import train

EXACT = ("step", "loss", "grad_norm/vae", "learning_rate/vae")
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, bucket_server("bucket") as (bucket, environment):
        for name, value in environment.items():
            patch.setenv(name, value)
        pytest.importorskip("gcsfs")  # it reads the environment
        yield bucket


def logged(bucket):
    lines = bucket.objects["run/metrics.jsonl"][0].decode().splitlines()
    return [{key: json.loads(line)[key] for key in EXACT} for line in lines]


def test_a_run_in_a_bucket_is_resumed_and_ends_like_a_local_one(bucket, tmp_path, capsys):
    train(small_config(steps=4), "gs://bucket/run", quiet=True)
    result = train(small_config(steps=6), "gs://bucket/run")
    assert str(result) == "gs://bucket/run/model/vae"
    assert "resumed at step 4" in capsys.readouterr().out
    train(small_config(steps=6), tmp_path, quiet=True)
    names = set(bucket.objects)
    steps = {name.split("/")[2] for name in names if name.startswith("run/checkpoints/")}
    local = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {step for step in steps if step.isdigit()} == {step for step in local if step.isdigit()}
    assert {"run/trained_parameters.txt", "run/model/vae/config.json"} <= names
    assert len([name for name in names if name.startswith("run/tensorboard/")]) == 2  # one a start
    assert "run/.lock" not in names and "run/metrics.jsonl" in names
    assert logged(bucket) == [{key: line[key] for key in EXACT} for line in read_metrics(tmp_path)]
    got, want = (
        safetensors.numpy.load(bucket.objects[f"run/model/{WEIGHTS}"][0]),
        read_weights(tmp_path),
    )
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_another_run_in_the_same_folder_is_refused(bucket):
    with pytest.raises(UserError, match="gs://bucket/run/checkpoints holds another run .*seed"):
        train(small_config(steps=6, seed=3), "gs://bucket/run", quiet=True)


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match="gs://nowhere/run cannot be reached"):
        train(small_config(), "gs://nowhere/run", quiet=True)
