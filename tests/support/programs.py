"""Programs that record how they are called, in the place of those that a script calls."""

import json
import os
from pathlib import Path


def put_on_path(monkeypatch, folder: Path, **programs: str) -> None:
    """Puts programs of a few lines of bash in front of the others on PATH.

    Each call is recorded in `folder`, where `calls` finds it, before the lines run.
    """
    (folder / "bin").mkdir()
    for name, lines in programs.items():
        program = folder / "bin" / name
        record = (
            "python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "
            f'{name} "$@" >> {folder}/calls.jsonl'
        )
        program.write_text(f"#!/usr/bin/env bash\n{record}\n{lines}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def calls(folder: Path) -> list[list[str]]:
    """The calls so far: name and arguments of each."""
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
