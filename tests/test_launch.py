"""The scripts that start runs, with recorders in the place of the programs that they call."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.programs import calls, put_on_path
from tests.test_documents import parse

LAUNCH = Path(__file__).parent.parent / "launch"
OPTIONS = ["--config", "configs/stage1.py", "--workdir", "runs/a b"]
TRAIN = ["python", "-m", "tvt_jax.train"]


def statuses(*values: int) -> str:
    """Lines of a program that ends with these exit statuses, one a call, and then with 0."""
    return (
        f'values=({" ".join(map(str, values))}); count=$(cat "$0.count" 2>/dev/null || echo 0)\n'
        'echo $((count + 1)) > "$0.count"; exit "${values[count]:-0}"'
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes a copy of `launch/` in the working folder, with a `.venv/bin/python` of such lines."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAUSE", "0")

    def make(python: str = "", **programs: str) -> Path:
        put_on_path(monkeypatch, tmp_path, python=python, **programs)
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv" / "bin").symlink_to(tmp_path / "bin")
        return tmp_path

    return make


def launch(script: str, *options: str) -> int:
    return subprocess.run([f"launch/{script}", *options]).returncode


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("ends", "status", "times"),
    [((1, 139, 0), 0, 3), ((2,), 2, 1), ((143,), 143, 1), ((1, 2), 2, 2), ((1,) * 9, 1, 4)],
    ids=["crashes", "a mistake", "told to end", "a crash, then a mistake", "nothing but crashes"],
)
def test_a_run_is_resumed_after_a_crash_only(project, monkeypatch, ends, status, times):
    monkeypatch.setenv("RETRIES", "3")
    folder = project(python=statuses(*ends))
    assert launch("run.sh", *OPTIONS) == status
    assert calls(folder) == [[*TRAIN, *OPTIONS]] * times


def test_a_signal_reaches_the_run_and_lets_it_save(project):
    folder = project(
        python="trap 'sleep 1; touch saved; exit 143' TERM; while :; do sleep 0.1; done"
    )
    process = subprocess.Popen(["launch/run.sh", *OPTIONS])
    while not calls(folder):
        time.sleep(0.05)
    time.sleep(0.2)  # until the lines after the record have run
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert (folder / "saved").exists() and len(calls(folder)) == 1


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (143, 0, True), (1, 0, True), (143, 100, False)],
)
def test_slurm_jobs_queue_again_unless_done_or_mistaken(
    project, monkeypatch, status, restarts, requeued
):
    folder = project(srun=f"exit {status}", scontrol="")
    for name, value in (("JOB_ID", "7"), ("CPUS_PER_TASK", "12"), ("RESTART_COUNT", str(restarts))):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launch("slurm.sh", *OPTIONS) == status
    start, *more = calls(folder)
    want = ["--cpus-per-task=12", ".venv/bin/python", *TRAIN[1:], "--distributed", *OPTIONS]
    assert start == ["srun", *want]
    assert more == ([["scontrol", "requeue", "7"]] if requeued else [])


# A slice that is granted at the second look and taken away during the first run.
GCLOUD = """
case $3-$4 in
  queued-resources-create) echo WAITING_FOR_RESOURCES > state ;;
  queued-resources-delete) rm state ;;
  queued-resources-list)
    cat state 2>/dev/null
    if [ "$(cat state)" = WAITING_FOR_RESOURCES ]; then echo ACTIVE > state; fi ;;
  tpu-vm-ssh)
    case "$*" in *launch/run.sh*)
      echo >> runs
      if [ "$(wc -l < runs)" = 1 ]; then echo SUSPENDED > state; fi
      exit "$(sed -n "$(wc -l < runs)p" statuses)" ;;
    esac ;;
esac
exit 0
"""


def start_on_tpu(project, monkeypatch, *ends: int, **environment: str) -> tuple[int, list]:
    folder = project(gcloud=GCLOUD, git="")
    (folder / "statuses").write_text("".join(f"{status}\n" for status in ends))
    for name, value in {"TPU": "slice", "ZONE": "zone", **environment}.items():
        monkeypatch.setenv(name, value)
    status = launch("tpu.sh", *OPTIONS)
    done = calls(folder)
    assert all(call[-2:] == ["--zone", "zone"] for call in done if call[0] == "gcloud")
    return status, [call[3:-2] for call in done if call[0] == "gcloud"]


def test_a_tpu_slice_that_is_there_gets_the_code_and_runs_it(project, monkeypatch):
    status, (copy, install, train) = start_on_tpu(project, monkeypatch, 0)
    assert status == 0
    assert copy[:2] == ["tpu-vm", "scp"] and copy[3:] == ["slice:tvt_jax.tar.gz", "--worker=all"]
    on_all = ["tpu-vm", "ssh", "slice", "--worker=all", "--command"]
    assert install[:-1] == on_all and "requirements.txt" in install[-1]
    assert train[:-1] == on_all
    # What the hosts' shell makes of it.
    ours = train[-1].split("cd tvt_jax && exec ")[1]
    shown = subprocess.run(["bash", "-c", f"printf '%s\\n' {ours}"], capture_output=True, text=True)
    assert shown.stdout.splitlines() == ["launch/run.sh", "--distributed", *OPTIONS]


def test_a_spot_slice_that_is_taken_away_is_requested_again(project, monkeypatch):
    status, done = start_on_tpu(project, monkeypatch, 143, 0, TYPE="v5litepod-16")
    assert status == 0
    queue = [call[1:] for call in done if call[0] == "queued-resources" and call[1] != "list"]
    create, delete, again, last = queue
    assert create[0] == "create" and create == again and "--spot" in create
    assert create[create.index("--accelerator-type") + 1] == "v5litepod-16"
    assert delete == last == ["delete", "slice", "--force", "--quiet"]
    # A new slice is empty.
    assert [call[1] for call in done if call[0] == "tpu-vm"] == ["scp", "ssh", "ssh"] * 2


@pytest.mark.parametrize("kind", ["", "v5litepod-16"])
def test_a_mistake_ends_the_start_on_tpu_and_leaves_the_slice(project, monkeypatch, kind):
    status, done = start_on_tpu(project, monkeypatch, 2, TYPE=kind)
    assert status == 2 and not [call for call in done if "delete" in call]


def test_kubernetes_takes_the_objects(monkeypatch):
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    for described in (service, job):
        kubernetes_validate.validate(described, "1.31", strict=True)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    parse(["python", *container["command"][1:]], monkeypatch)
    # The processes find the first one under its stable name, and are as many as the job's pods.
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["JAX_NUM_PROCESSES"] == str(spec["completions"]) == str(spec["parallelism"])
    host = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert variables["JAX_COORDINATOR_ADDRESS"].startswith(f"{host}:")
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}


def test_kubernetes_restarts_what_was_told_to_end_and_no_mistake():
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    rules = job["spec"]["podFailurePolicy"]["rules"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    actions = {}
    for rule in rules:
        if codes := rule.get("onExitCodes"):
            assert codes["operator"] == "In" and codes["containerName"] == container["name"]
            actions |= dict.fromkeys(codes["values"], rule["action"])
        else:
            actions |= {found["type"]: rule["action"] for found in rule["onPodConditions"]}
    assert actions == {2: "FailJob", 143: "Ignore", "DisruptionTarget": "Ignore"}
