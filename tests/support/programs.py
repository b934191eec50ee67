"""Programs that record how they are called, in the place of those that a script calls."""

import os
from pathlib import Path


def put_on_path(monkeypatch, folder: Path, **programs: str) -> None:
    """Puts programs of a few lines of bash in front of the others on PATH.

    Each call is recorded in `folder`, where `calls` finds it, before the lines run.
    """
    (folder / "bin").mkdir()
    for name, lines in programs.items():
        program = folder / "bin" / name
        record = rf"""{{ printf '%s\x1f' {name} "$@"; printf '\x1e'; }} >> {folder}/calls"""
        program.write_text(f"#!/usr/bin/env bash\n{record}\n{lines}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def calls(folder: Path) -> list[list[str]]:
    """The calls so far: name and arguments of each."""
    path = folder / "calls"
    recorded = path.read_text().split("\x1e")[:-1] if path.exists() else []
    return [call.split("\x1f")[:-1] for call in recorded]
