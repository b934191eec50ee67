"""A module imports only from the layers below it, and heavy packages only where they belong."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tvt_jax"
# From the bottom up. A module imports from the rows below its own, and from its own folder.
LAYERS = (
    {"errors"},
    {"compiler", "config", "curves", "files", "png", "progress"},
    {"bundled", "downloads", "hub"},
    {"cli"},
    {"models", "diffusion", "losses", "images", "memory", "processes"},
    {"restoration", "parallel", "checkpoint", "weights"},
    {"text"},
    {"conversion", "data", "metrics"},
    {"training", "inference", "evaluation", "benchmarks", "export", "diagnosis"},
    {"ablation"},
    {
        "train",
        "infer",
        "tag",
        "convert",
        "gather",
        "prepare",
        "evaluate",
        "ablate",
        "bench",
        "demo",
        "doctor",
        "app",
    },
)
# The only imports between folders of one row.
SIDEWAYS = {
    ("evaluation", "inference"),
    ("benchmarks", "training"),
    ("benchmarks", "inference"),
    ("export", "inference"),
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported_modules(tree: ast.AST):
    """Yields (dotted module, whether at module level) for every import."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top
            if node.module == "tvt_jax":
                for alias in node.names:
                    yield f"tvt_jax.{alias.name}", id(node) in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(part: str, source: str) -> list[str]:
    """What a file of the package part `part` imports and should not."""
    found = []
    for module, at_top in imported_modules(ast.parse(source)):
        root, *rest = module.split(".")
        if root == "tvt_jax" and rest and rest[0] in RANK:
            sideways = RANK[rest[0]] == RANK[part] and rest[0] != part
            if RANK[rest[0]] > RANK[part] or (sideways and (part, rest[0]) not in SIDEWAYS):
                found.append(f"{part} imports {module}")
        if root == "torch" and (at_top or RANK[part] < RANK["weights"]):
            found.append(f"{part} imports torch {'at its top' if at_top else ''}")
        if part == "models" and root in ("optax", "orbax", "grain", "safetensors", "pathlib"):
            found.append(f"models imports {module}")
        if root == "diffusers" or (root == "tensorflow" and (at_top or part != "export")):
            found.append(f"{part} imports {module}")
    return found


def test_every_module_has_a_layer():
    parts = {part_of(p) for p in PACKAGE.rglob("*.py")} - {"__init__", "assets"}
    assert parts <= set(RANK), parts - set(RANK)


def test_contributing_tells_the_layers():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    table = text[text.index("| modules | ") :].split("\n\n")[0].splitlines()[2:]
    assert [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table] == list(LAYERS)


def test_no_import_points_upward():
    found = [
        f"{path.relative_to(PACKAGE)}: {violation}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.parent != PACKAGE
        for violation in violations(part_of(path), path.read_text())
    ]
    assert not found, found


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "from tvt_jax.weights import names"),
        ("models", "import optax"),
        ("weights", "import torch"),
        ("models", "def f():\n    import torch"),
        ("inference", "from tvt_jax import infer"),
        ("data", "from tvt_jax.training.loop import train"),
        ("inference", "from tvt_jax.evaluation import quality"),
    ],
)
def test_the_check_sees_violations(part, source):
    assert violations(part, source)


def test_importing_the_package_does_not_import_jax():
    import subprocess
    import sys

    code = "import sys, tvt_jax, tvt_jax.config, tvt_jax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
