"""`ablate`: what makes runs comparable, their chains, the table, and resuming."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import COMMANDS
from tests.training.small_run import SMALL_VAE, wait_for_step
from tvt_jax import ablate
from tvt_jax.ablation import comparison, runs
from tvt_jax.ablation.comparison import compare_runs
from tvt_jax.ablation.runs import read_runs, train_run
from tvt_jax.benchmarks.complexity import vae_cost
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.curves import _ticks, plot
from tvt_jax.errors import UserError
from tvt_jax.files import write_json

ROOT = Path(__file__).parent.parent.parent
CHAIN = "TVT=configs/stage1.py:tiny@30+configs/stage2.py:tiny@20"
SCRATCH = "T1=configs/pretrain_vae.py:T1,tiny@50"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_runs_have_equal_budgets_and_data():
    first, second = read_runs([CHAIN, SCRATCH], None, "configs")
    assert (first.name, second.name) == ("TVT", "T1")
    assert [c.steps for c in first.configs] == [30, 20] and second.configs[0].steps == 50
    assert first.budget == second.budget == 50 * 8 * 64**2
    for config in (*first.configs, *second.configs):
        assert config.data.train == "configs"
        assert config.validation.folder == str(HELDOUT_PHOTOGRAPHS)
        assert config.validation.every == config.steps // 10 and not config.validation.lpips
    assert first.labels == ("configs/stage1.py:tiny@30", "configs/stage2.py:tiny@20")
    (plain, _) = read_runs(["configs/stage2.py:tiny", "configs/stage1.py:tiny"], 7, None)
    assert plain.name == "stage2-tiny" and plain.configs[0].steps == 7


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ([CHAIN], "two at least"),
        ([SCRATCH, SCRATCH], "different names: T1, T1"),
        ([CHAIN, "configs/stage2.py:tiny@20"], "different budgets.* TVT 1.64, stage2-tiny 0.655"),
        ([CHAIN, "configs/stage3.py:tiny@50"], "TVT a VAE, stage3-tiny a model"),
        (["configs/stage2.py:tiny@x", CHAIN], "x is not a number of steps"),
        (["configs/nothing.py", CHAIN], "configs/nothing.py does not exist"),
        (
            ["configs/stage3.py:tiny+configs/stage2.py:tiny", CHAIN],
            "follows a stage that trains no",
        ),
        (["configs/pretrain_unet.py:tiny", CHAIN], "ends with a diffusion UNet"),
        (["configs/stage2.py:V1,tiny@50", CHAIN], "needs `config.init_vae=...`"),
    ],
)
def test_runs_that_do_not_compare(texts, match):
    with pytest.raises(UserError, match=match):
        read_runs(texts, None, None)


def test_the_documented_ablations_compare():
    calls = [words[3:] for words in COMMANDS.values() if words[2] == "tvt_jax.ablate"]
    for words in calls:
        given = words[words.index("--runs") + 1 :]
        texts = list(itertools.takewhile(lambda word: not word.startswith("--"), given))
        steps = int(words[words.index("--steps") + 1]) if "--steps" in words else None
        assert len(read_runs(texts, steps, "photographs")) == len(texts) > 2
    assert calls


def test_mistakes_of_the_command(tmp_path):
    for options, match in (
        ({"seeds": "0,x"}, "`seeds` 0,x are not numbers"),
        ({"seeds": "1,1"}, "`seeds` must be different"),
        ({"metrics": "psnr,lpips"}, "`metrics`: lpips is unknown"),
        ({"output": Path("README.md")}, "README.md is a file"),
    ):
        with pytest.raises(UserError, match=match):
            ablate.ablate([CHAIN, SCRATCH], **{"output": tmp_path, **options})


def test_stages_start_from_the_one_before(tmp_path, monkeypatch):
    """With the seed in each; a stage that is complete is not trained again."""
    trained = []

    def train(config, workdir, quiet):
        trained.append((config, workdir.name))
        (workdir / ("model/vae" if hasattr(config, "init_vae") else "model")).mkdir(parents=True)

    monkeypatch.setattr(runs, "train", train)
    text = "x=configs/pretrain_vae.py:T1,tiny+configs/stage3.py:tiny"
    run, _ = read_runs([text, text.replace("x=", "y=").replace("T1", "T2")], 10, None)
    for _ in range(2):
        assert train_run(run, 3, tmp_path) == tmp_path / "2" / "model"
    (first, _), (second, _) = trained
    assert first.seed == second.seed == 3
    assert second.vae == str(tmp_path / "1" / "model" / "vae")
    chain, _ = read_runs([CHAIN, SCRATCH], None, None)
    train_run(chain, 0, tmp_path / "chain")
    assert trained[-1][0].init_vae == str(tmp_path / "chain" / "1" / "model" / "vae")


def fake_training(monkeypatch):
    """Runs that "train" by writing a VAE's configuration and a curve, and "measure" numbers."""
    calls = []

    def train_run(run, seed, folder, quiet):
        result = folder / "1" / "model" / "vae"
        write_json(result / "config.json", SMALL_VAE.to_json())
        lines = [json.dumps({"step": s, "validation/psnr": 20.0 + s + seed}) for s in (5, 10)]
        (folder / "1" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        calls.append((run.name, seed))
        return result

    def evaluate_vaes(models, found, source, metrics, quiet):
        assert len(found) == 1
        seed = int(models[0].parts[-4].removeprefix("seed"))
        calls.append("measured")
        return {
            "protocol": {"described": "paper"}, "versions": {}, "weights": {}, "notes": [],
            "vaes": [{"mean": {"psnr": 25.0 + seed, "lpips-vgg": None}}],
        }  # fmt: skip

    monkeypatch.setattr(comparison, "train_run", train_run)
    monkeypatch.setattr(comparison, "evaluate_vaes", evaluate_vaes)
    dataset = dataclasses.make_dataclass("Found", ["high"])({"a": Path("a.png")})
    monkeypatch.setattr(comparison, "find_dataset", lambda name, data: dataset)
    return calls


def test_the_comparison(tmp_path, monkeypatch):
    calls = fake_training(monkeypatch)
    texts = ["a=configs/stage2.py:tiny", "b=configs/pretrain_vae.py:T1,tiny"]
    arguments = dict(steps=10, seeds=(0, 2), dataset="realsr", quiet=True)
    report = compare_runs(texts, tmp_path, **arguments)
    trainings = [call for call in calls if call != "measured"]
    assert trainings == [("a", 0), ("b", 0), ("a", 2), ("b", 2)]
    row = report["runs"][0]
    assert row["mean"] == {"psnr": 26.0, "lpips-vgg": None}
    assert row["spread"]["psnr"] == pytest.approx(2**0.5) and row["spread"]["lpips-vgg"] is None
    cost = vae_cost(SMALL_VAE)
    assert (row["parameters"], row["multiply_adds"]) == (
        cost.parameters, [cost.layers, cost.attention],
    )  # fmt: skip
    table = (tmp_path / "report.md").read_text()
    assert table.splitlines()[2].startswith("| a | ") and "| 26.00 ± 1.41 |  |" in table
    assert "b: configs/pretrain_vae.py:T1,tiny@10." in table
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == [0, 2]
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 1 + 4
    assert (tmp_path / "curves.svg").read_text().count("<polyline") > 4
    calls.clear()
    again = compare_runs(texts, tmp_path, **arguments)  # measured once only
    assert "measured" not in calls and again["runs"][0]["mean"] == row["mean"]
    with pytest.raises(UserError, match="holds another ablation"):
        compare_runs(texts, tmp_path, **{**arguments, "seeds": (1,)})


def test_curves():
    drawn = plot({"a & b": [(0, 1.0), (10, 3.0)], "c": [(10, 2.0)]}, "step", "dB")
    assert drawn.startswith("<svg") and "a &amp; b" in drawn
    assert _ticks([0, 10]) == [0, 2, 4, 6, 8, 10]
    assert _ticks([23.4, 24.1]) == pytest.approx([23.4, 23.6, 23.8, 24.0, 24.2])
    assert len(_ticks([5, 5])) >= 2 and len(_ticks([0, 0])) >= 2


@pytest.mark.slow
def test_a_killed_ablation_ends_with_the_same_table(tmp_path):
    """Three configurations, killed while the second trains."""
    photographs = tmp_path / "set"
    for name, size in (("hr", 128), ("lr", 32)):
        (photographs / name).mkdir(parents=True)
        from PIL import Image

        for path in sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))[:2]:
            crop = Image.open(path).crop((0, 0, 128, 128)).resize((size, size))
            crop.save(photographs / name / f"{path.stem}.png")

    def start(output):
        command = [
            sys.executable, "-m", "tvt_jax.ablate", "--runs", "TVT=configs/stage2.py:tiny",
            SCRATCH.replace("@50", ""), "T2=configs/pretrain_vae.py:T2,tiny", "--steps", "8",
            "--dataset", str(photographs), "--output", str(output), "--quiet",
        ]  # fmt: skip
        # At full optimisation, unlike the tests: more time for the compiler, less for the steps.
        environment = {**os.environ, "XLA_FLAGS": ""}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    straight = start(tmp_path / "straight")
    table = straight.communicate()[0]
    assert straight.returncode == 0 and table.count("\n| ") == 3
    killed = start(tmp_path / "killed")
    wait_for_step(killed, tmp_path / "killed" / "T1" / "seed0" / "1", 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    resumed = start(tmp_path / "killed")
    assert resumed.communicate()[0] == table
    for name in ("report.json", "report.csv", "curves.svg"):
        assert (tmp_path / "killed" / name).read_text() == (
            tmp_path / "straight" / name
        ).read_text()
