"""Settings for all tests: CPU, exact matrix products, no silent broadcasting."""

import gc
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("PJRT_NPROC", "16")  # collectives over more devices than cores need threads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["HF_HUB_OFFLINE"] = "1"
# Programs that several tests or their processes compile are compiled once, also between runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".xla_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# The tests compile much and compute little: LLVM's optimisations cost four times what they save.
# Two processes of tests leave no core for a program's parts to be compiled side by side.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)

import jax
import pytest
import torch

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")
# `make test` runs two processes of tests.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
# Tracing makes millions of objects, and few of them are garbage that only the collector finds: at
# its usual threshold it walks the libraries' objects so often that it takes a twelfth of the time.
gc.freeze()
gc.set_threshold(50_000)


@pytest.fixture(scope="session")
def small_release(tmp_path_factory):
    """A small release in the authors' layout."""
    from tests.support.small_release import write_small_release

    return write_small_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def small_model(small_release, tmp_path_factory):
    """The model folder that the converter makes of the small release."""
    from tvt_jax.conversion.official import convert_official

    output = tmp_path_factory.mktemp("model") / "model"
    convert_official(
        small_release.sd,
        small_release.vae_file,
        output,
        small_release.tvt_unet,
        small_release.tvt_file,
        report=lambda line: None,
    )
    return output


@pytest.fixture(scope="session")
def local_model(tmp_path_factory):
    """A model folder of two small networks, where what they are does not matter."""
    from tests.support.local_networks import write_local_model

    folder = tmp_path_factory.mktemp("local") / "model"
    write_local_model(folder)
    return folder


@pytest.fixture(scope="session")
def tagger_files(tmp_path_factory):
    """Folder with ram.pth, dape.pth and data/: the small tagger as the release has it."""
    from tests.support import ram_files

    folder = tmp_path_factory.mktemp("tagger_release")
    torch.save(ram_files.ram_checkpoint(), folder / "ram.pth")
    torch.save(ram_files.dape_checkpoint(), folder / "dape.pth")
    ram_files.write_ram_data(folder / "data", ram_files.golden()["class_threshold"])
    return folder


@pytest.fixture(scope="session")
def tagger_models(tagger_files, tmp_path_factory):
    """Model folders with nothing but a tagger: "ram" plain, "dape" with its adapters."""
    from tvt_jax.conversion.tagger import convert_tagger

    folders = {}
    for kind, dape in (("ram", None), ("dape", tagger_files / "dape.pth")):
        folders[kind] = tmp_path_factory.mktemp("tagger") / kind
        arguments = (tagger_files / "ram.pth", tagger_files / "data", folders[kind], dape)
        convert_tagger(*arguments, report=lambda line: None)
    return folders
