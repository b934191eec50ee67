"""The documents: their commands parse with the real options, and those that can be are run.

A comment before a block, `<!-- test: fast -->` or `<!-- test: slow -->`, lets it run here.
"""

import functools
import json
import re
import runpy
import shlex
import string
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tyro
from absl import flags
from PIL import Image

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "tvt_jax/assets/tvt_small/README.md",
]
# Runs of training are cut short here.
SHORT = (
    "--config.steps=2 --config.checkpoint_every=2 --config.validation.every=2 "
    "--config.data.batch_size=2"
)


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str
    language: str  # "": shell
    text: str
    marker: str  # "fast" or "slow": it is run; "": it is not

    def commands(self) -> list[list[str]]:
        """The words of each shell command, with the block's own variables put in."""
        variables: dict[str, str] = {}
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(string.Template(line).safe_substitute(variables), comments=True)
            if assigned := re.fullmatch(r"(\w+)=(.*)", words[0] if len(words) == 1 else ""):
                variables[assigned[1]] = assigned[2]
            elif words:
                found.append(words)
        return found


def blocks() -> list[Block]:
    pattern = r"(?:<!-- test: (fast|slow) -->\n)?^```(\w*)\n(.*?)^```$"
    return [
        Block(str(path.relative_to(ROOT)), found[2], found[3], found[1] or "")
        for path in DOCUMENTS
        for found in re.finditer(pattern, path.read_text(), re.MULTILINE | re.DOTALL)
    ]


def commands() -> dict[str, list[str]]:
    """The calls of the project's commands: in documents, configurations and the notebook."""
    found = [words for block in blocks() if not block.language for words in block.commands()]
    for path in DOCUMENTS:
        for span in re.findall(r"`(python -m tvt_jax\.\w+[^`]* --[^`]*)`", path.read_text()):
            found.append(shlex.split(span.removesuffix("...")))
    for path in ROOT.glob("configs/*.py"):
        text = path.read_text().replace("\\\n", " ")
        found += map(shlex.split, re.findall(r"^    (python -m .*)$", text, re.MULTILINE))
    for cell in json.loads((ROOT / "launch/colab.ipynb").read_text())["cells"]:
        text = "".join(cell["source"]).replace("\\\n", " ")
        found += map(shlex.split, re.findall(r"^ *!(python -m .*)$", text, re.MULTILINE))
    calls = [words for words in found if words[:2] == ["python", "-m"]]
    return {" ".join(words): words for words in calls if words[2].startswith("tvt_jax.")}


COMMANDS = commands()
RUN = [block for block in blocks() if block.marker]


def parse_train(words: list[str], monkeypatch) -> None:
    from tvt_jax import train

    monkeypatch.setattr(sys, "argv", ["train", *words])  # ml_collections reads it
    flags.FLAGS.unparse_flags()
    try:
        assert not flags.FLAGS(sys.argv)[1:]
        train._CONFIG.value.validate()
    finally:  # the next configuration has fields of its own
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def parse_typed(module: str, words: list[str], monkeypatch) -> None:
    """Parses the options of a command, and calls something else in its place."""
    commands = []
    monkeypatch.setattr("tvt_jax.cli.run", lambda command, prog: commands.append(command))
    runpy.run_module(module, run_name="__main__")

    def parsed(command):
        return functools.wraps(command)(lambda *args, **kwargs: None)

    if callable(commands[0]):
        tyro.cli(parsed(commands[0]), args=words)
    else:
        named = {name: parsed(command) for name, command in commands[0].items()}
        tyro.extras.subcommand_cli_from_dict(named, args=words)


def parse(words: list[str], monkeypatch) -> None:
    module, *options = words[2:]
    monkeypatch.chdir(ROOT)
    try:
        if module == "tvt_jax.train":
            parse_train(options, monkeypatch)
        else:
            parse_typed(module, options, monkeypatch)
    except SystemExit as done:
        assert done.code == 0  # --help


def test_there_are_commands():
    assert len(COMMANDS) > 30 and {block.marker for block in RUN} == {"fast", "slow"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, monkeypatch):
    parse(COMMANDS[command], monkeypatch)


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m tvt_jax.infer --input a --output b --sclae 2",
        "python -m tvt_jax.evaluate vaes --input a --model b",
        "python -m tvt_jax.train --config configs/stage2.py:tiny --config.stepps=2",
        "python -m tvt_jax.train --config configs/stage2.py:tinny",
        "python -m tvt_jax.train --config configs/stage1.py --config.data.train=shards",
    ],
)
def test_mistakes_are_seen(wrong, monkeypatch):
    with pytest.raises(Exception):  # noqa: B017 - of absl, ml_collections, tyro or this project
        parse(wrong.split(), monkeypatch)


@pytest.fixture
def folder(tmp_path):
    """Where a reader would be: the project, and photographs under the names of the documents."""
    for name in ("tvt_jax", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("photos", "restored", "originals"):
        (tmp_path / name).mkdir()
    for path in sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))[:2]:
        photo = Image.open(path).crop((0, 0, 64, 64))
        for name in ("photo.jpg", f"photos/{path.name}", f"restored/{path.name}"):
            photo.save(tmp_path / name)
        photo.save(tmp_path / "originals" / f"{path.stem}.png")
    return tmp_path


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            marks=[pytest.mark.slow] if block.marker == "slow" else [],
            id=f"{block.document}-{index}",
        )
        for index, block in enumerate(RUN)
    ],
)
def test_blocks_run(block, folder):
    calls = [["python", "-c", block.text]] if block.language == "python" else block.commands()
    for words in calls:
        short = SHORT.split() if words[:3] == ["python", "-m", "tvt_jax.train"] else []
        done = subprocess.run(
            [sys.executable, *words[1:], *short],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"


def test_links_lead_somewhere():
    dead = [
        f"{path.name}: {link}"
        for path in DOCUMENTS
        for link in re.findall(r"\]\(([^)#]+)", path.read_text())
        if not link.startswith("http") and not (path.parent / link).exists()
    ]
    assert not dead, dead


def test_files_that_are_named_exist():
    missing = []
    for document in DOCUMENTS:
        text = document.read_text()
        named = re.findall(r"`((?:[a-z_]+/)+\w+\.(?:ipynb|py|sh|yaml|tsv))`", text)
        named += re.findall(r"((?:tests|configs|launch)/[\w/]+\.py)", text)
        missing += [
            n for n in named if not ((ROOT / n).exists() or (ROOT / "tvt_jax" / n).exists())
        ]
        for path, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
            if (ROOT / path).exists() and f"def {test}(" not in (ROOT / path).read_text():
                missing.append(f"{path}::{test}")
    assert not missing, missing


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for path in DOCUMENTS for name in re.findall(r"`make ([\w-]+)`", path.read_text())
    }
    assert named <= targets, named - targets


def test_every_figure_names_its_command():
    """In the tables of BENCHMARKS.md with a column for it."""
    rows, in_table = 0, False
    for line in (ROOT / "BENCHMARKS.md").read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and not set(cells[-1]) - {"-"}:
            continue
        if "command" in cells:
            in_table = True
        elif in_table and cells:
            assert cells[-1], line
            rows += 1
        in_table &= bool(cells)
    assert rows > 40
