"""Growth by devices, batch and size: what is counted in compiled programs, and the arithmetic."""

import pytest

from tests.training.small_run import small_config
from tvt_jax.benchmarks import scale
from tvt_jax.benchmarks.epoch import Costs, epoch_table
from tvt_jax.benchmarks.scale import (
    Case,
    Growth,
    collective_seconds,
    growth_tables,
    measure_growth,
    write_plots,
)
from tvt_jax.benchmarks.tpu_step import CompiledStep, collective_bytes
from tvt_jax.errors import UserError

# Lines as compilers for TPU and CPU print them: a tuple, an asynchronous chain in three stages, the
# operand and the result of a start, and lines that only name a collective.
PROGRAM = """
  %all-reduce.2 = (f32[1024,2048]{1,0:T(8,128)}, f32[]{:S(1)}) all-reduce(%fusion, %fusion.4)
  %all-gather.6 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%p), attributes={chain_id="0"}
  %all-gather.8 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%p), attributes={chain_id="0"}
  %all-gather.9 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%p), attributes={chain_id="1"}
  %permute.1 = (f32[3,5], f32[3,5], u32[], u32[]) collective-permute-start(%x)
  %done.1 = f32[3,5] collective-permute-done(%permute.1)
  %all-reduce.3 = f32[7]{0} all-reduce-start(%y)
  %fusion.1 = f32[9]{0} fusion(%all-reduce.2), calls=%all-gather_computation
"""


def test_collectives_are_counted_once():
    assert collective_bytes(PROGRAM) == {
        "all-reduce": 4 * (1024 * 2048 + 1 + 7),
        "all-gather": 2 * 2 * 64 * 32,
        "collective-permute": 4 * 3 * 5,
    }


def step(devices=8, temporary=2**30):
    return CompiledStep(devices, 2**29, temporary, 3e12, 5e11, {"all-reduce": 100 * 2**20}, 1.0)


@pytest.fixture
def growth():
    first = Case("v5e:2x4", 1, 512, 1)
    return Growth(
        {
            first: step(),
            Case("v5e:8x8", 1, 512, 1): step(64),
            Case("v5e:2x4", 2, 512, 1): None,
            Case("v5e:2x4", 1, 256, 1): step(temporary=2**28),
        }
    )


def test_tables_hold_what_belongs_to_them(growth):
    devices, images, sides = growth_tables(growth).split("\n\n")
    assert "| v5e:2x4 | 8 | 1 | all-reduce 100 |" in devices and "| v5e:8x8 | 64 |" in devices
    # 2 x 100 MiB over 200 GB/s in one direction.
    assert "| 1.0 ms | 0.50 GiB | 1.00 GiB |" in devices and "2 | does not" not in devices
    assert images.splitlines()[2:] == [
        "| 1 | 3.0 | 0.50 GiB | 1.00 GiB |",
        "| 2 | does not fit | | |",
    ]
    assert sides.splitlines()[2:] == [
        "| 512 | 3.0 | 0.50 GiB | 1.00 GiB |",
        "| 256 | 3.0 | 0.50 GiB | 0.25 GiB |",
    ]
    gathered = CompiledStep(8, 0, 0, 0, 0, {"all-gather": 200 * 10**9}, 1.0)
    assert collective_seconds(Case("v5e:2x4", 1, 512, 8), gathered) == 1.0


def test_programs_are_compiled_once(monkeypatch, tmp_path):
    compiled = []

    def compile_step(config, case, quick, vae):
        compiled.append(case)
        return None if case.images == 2 else step()

    monkeypatch.setattr(scale, "_compile", compile_step)
    monkeypatch.setattr(scale, "tpu_devices", lambda topology: range(8))

    def measure(sides, **changes):
        file = tmp_path / "growth.json"
        return measure_growth(small_config(**changes), ["v5e:2x4"], [1, 2], sides, True, None, file)

    measure([512])
    assert compiled == [Case("v5e:2x4", 1, 512, 1), Case("v5e:2x4", 1, 512, 8),
                        Case("v5e:2x4", 2, 512, 1)]  # fmt: skip
    growth = measure([512, 256])
    assert compiled[3:] == [Case("v5e:2x4", 1, 256, 1)]
    assert list(growth.steps.values()) == [step(), step(), None, step()]
    with pytest.raises(UserError, match="growth.json holds another run's"):
        measure([512], seed=1)


def test_plots_are_written(growth, tmp_path):
    write_plots(tmp_path, growth)
    for name in ("by_images.svg", "by_side.svg"):
        assert "GiB for a step" in (tmp_path / name).read_text()


def test_an_epoch_is_images_by_speed():
    config = small_config()
    config.data.batch_size = 16
    costs = Costs(flops=1e12, cpu_seconds=0.01)
    rows = epoch_table(config, costs, "v5e", (8, 64), share=0.5, images=788 * 3600)
    # 8 x 197 TFLOP/s x 0.5 = 788 images/s; data takes 788 x 0.01 cores.
    assert rows.splitlines()[2:] == [
        "| 8 | 16 | 788 | 0.02 s | 1.0 h | 8 | 8 | 224 |",
        "| 64 | 64 | 6,304 | 0.01 s | 0.1 h | 8 | 63 | 1,792 |",
    ]
    with pytest.raises(UserError, match="`chip` v9 is not one of v5e, v5p, v6e"):
        epoch_table(config, costs, "v9", (8,), 0.5, 1)
    with pytest.raises(UserError, match="`share` 0"):
        epoch_table(config, costs, "v5e", (8,), 0, 1)


@pytest.mark.slow
def test_gradients_are_summed_up_between_tpus(tmp_path):
    pytest.importorskip("libtpu")
    growth = measure_growth(
        small_config(), ["v5e:2x4", "v5e:4x4"], [1], [16], True, None, tmp_path / "growth.json"
    )
    steps = {(case.topology, case.fsdp): step for case, step in growth.steps.items()}
    assert {key: step.devices for key, step in steps.items()} == {
        ("v5e:2x4", 1): 8, ("v5e:2x4", 8): 8, ("v5e:4x4", 1): 16, ("v5e:4x4", 8): 16,
    }  # fmt: skip
    for step in steps.values():  # 3,880 trained float32 parameters, and metrics
        assert 4 * 3880 <= step.collectives["all-reduce"] < 4 * 3880 + 1024
