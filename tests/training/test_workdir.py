"""The folder of a run in a bucket: locked, and kept up to date by copies of a local one."""

import sys

import pytest
from etils.epath import backend

from tests.support.memory_bucket import memory_bucket
from tvt_jax.errors import UserError
from tvt_jax.training import workdir as module
from tvt_jax.training.workdir import own_workdir

RUN = "gs://bucket/run"


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(module, "_BEAT", 0.02)
    monkeypatch.setattr(module, "_LOST", 0.5)
    with memory_bucket() as bucket:
        yield bucket


def test_what_is_new_is_copied(bucket):
    bucket.pipe_file(f"{RUN}/metrics.jsonl", b"old\n")
    with own_workdir(RUN) as folder:
        assert str(folder.path) == RUN
        log = folder.local / "metrics.jsonl"
        assert log.read_text() == "old\n"  # a resumed run appends to it
        (folder.local / "model").mkdir()
        (folder.local / "model" / "config.json").write_text("{}")
        log.write_text("old\nnew\n")
        folder.upload()
        assert bucket.cat_file(f"{RUN}/model/config.json") == b"{}"
        assert bucket.cat_file(f"{RUN}/metrics.jsonl") == b"old\nnew\n"
        bucket.rm(f"{RUN}/model/config.json")
        log.write_text("old\nnew\nlast\n")
    assert not bucket.exists(f"{RUN}/model/config.json")  # it was not new
    assert bucket.cat_file(f"{RUN}/metrics.jsonl") == b"old\nnew\nlast\n"
    assert not folder.local.exists() and not bucket.exists(f"{RUN}/.lock")


def test_logs_are_copied_when_a_run_fails(bucket):
    with pytest.raises(RuntimeError, match="a bug"), own_workdir(RUN) as folder:
        (folder.local / "metrics.jsonl").write_text("new\n")
        raise RuntimeError("a bug")
    assert bucket.cat_file(f"{RUN}/metrics.jsonl") == b"new\n"


def test_a_second_run_is_refused(bucket):
    with own_workdir(RUN):
        with pytest.raises(UserError, match=f"another run is using `workdir` {RUN}"):
            with own_workdir(RUN):
                pass
    with own_workdir(RUN):
        pass


def test_the_lock_of_a_killed_run_is_given_up(bucket):
    bucket.pipe_file(f"{RUN}/.lock", b"killed")
    with own_workdir(RUN):
        assert bucket.cat_file(f"{RUN}/.lock") != b"killed"


def test_what_is_missing_for_buckets_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(UserError, match="pip install gcsfs"), own_workdir(RUN):
        pass
