"""What memory is free, by every limit that there is, and what is said where it is too little."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tvt_jax import memory
from tvt_jax.config import VAES
from tvt_jax.errors import UserError
from tvt_jax.inference.memory_plan import plan_memory
from tvt_jax.inference.options import RestorationOptions


def test_the_share_of_a_gpu_is_told(monkeypatch):
    program = jax.jit(jnp.sort).lower(jnp.ones(2**18))
    monkeypatch.setattr(memory, "free_memory", lambda: 2**10)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"free \(of 75% of the GPU; XLA_CLIENT_MEM_FRACTION"):
        memory.compile_to_fit(program, "it", "use less")
    with pytest.raises(UserError, match=r"free \(of 75% of the GPU; XLA_CLIENT_MEM_FRACTION"):
        plan_memory((999, 999), VAES["VAE-D4"], 64, RestorationOptions(tile="none"))


def write_group(folder, limit, used, cache, names):
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"file 5\n{names[2]} {cache}\n")


@pytest.mark.parametrize(
    ("line", "mount", "names"),
    [
        ("0::/a/b", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/a/b",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_limits_of_control_groups_and_of_those_above(tmp_path, line, mount, names):
    root = tmp_path / "cgroup"
    write_group(root / mount / "a", 1000, 600, 100, names)
    write_group(root / mount / "a" / "b", "max" if not mount else 2**63, 300, 0, names)
    (tmp_path / "self").write_text(f"1:cpu:/x\n{line}\n")
    assert min(memory._free_in_control_groups(tmp_path / "self", root)) == 500
    assert not list(memory._free_in_control_groups(tmp_path / "missing", root))


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v")
def test_a_limit_of_the_address_space_counts():
    code = "from tvt_jax.memory import free_memory; print(free_memory())"
    command = f"ulimit -v {8 * 2**20} && {sys.executable} -c '{code}'"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=os.environ)
    assert 0 < int(done.stdout) < 8 * 2**30
