"""Sides of a comparison that take turns, each in a process of its own: its memory is its own.

What else runs on the machine then slows down both sides, and medians compare.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvt_jax.benchmarks.speed import WARM_UP, Speed, time_call, timings

Side = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]


def take_turns(
    module: str, sides: Mapping[str, Sequence[str]], rounds: int, environment: Mapping[str, str]
) -> dict[str, dict[str, Any] | None]:
    """Runs the sides of a comparison, one call of each in turn.

    Args:
      module: whose `main` serves a side, by `serve_side`.
      sides: name -> arguments of the module.
      rounds: calls of each side that are timed.
      environment: of the processes, beside this one's, which counts more.

    Returns: for each side its figures, and `times`: (seconds, CPU seconds) of each call. None for a
      side that failed; its traceback is on stderr.
    """
    told: dict[str, list] = {}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, arguments in sides.items():
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                env={**environment, **os.environ},
            )  # fmt: skip
            processes[name] = stack.enter_context(process)
            # It is ready before the next begins, whose compilation would slow its own down.
            told[name] = process.stdout.readlines(1)
        for _ in range(WARM_UP + rounds + 1):
            for name, process in processes.items():
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(b"\n")
                told[name] += process.stdout.readlines(1)
    results: dict[str, dict[str, Any] | None] = dict.fromkeys(sides)
    for name, lines in told.items():
        if len(lines) == 1 + WARM_UP + rounds + 1:
            _, *times, figures = map(json.loads, lines)
            results[name] = {**figures, "times": times[WARM_UP:]}
    return results


def serve_side(prepare: Callable[[], Side], rounds: int) -> None:
    """A side of `take_turns`.

    Args:
      prepare: makes (the call that is timed, what tells the side's figures after the last call).
      rounds: as of `take_turns`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    call, figures = prepare()
    answer("ready")
    for _ in range(WARM_UP + rounds):
        sys.stdin.readline()
        answer(time_call(call))
    sys.stdin.readline()
    answer(figures())


def side_speeds(
    results: Mapping[str, dict[str, Any] | None], what: str, batch_size: int
) -> list[Speed]:
    """The figures of the sides that did not fail.

    Args:
      results: what `take_turns` returned. A side tells `device`, `peak` and `compile_seconds` of
        `Speed`; that of JAX, "jax", the others too, of which those of the mathematics hold for all.
      what, batch_size: as of `Speed`.
    """
    names = {field.name for field in dataclasses.fields(Speed)}
    unknown = {"flops": float("nan"), "matmul_rate": float("nan")}
    shared = {key: (results.get("jax") or unknown)[key] for key in unknown}
    return [
        Speed(
            **{
                "what": f"{name}, {what}",
                "devices": 1,
                "batch_size": batch_size,
                "held": None,
                "needed": None,
                **shared,
                **timings(result["times"], on_cpu=result["device"] == "cpu"),
                **{key: value for key, value in result.items() if key in names},
            }
        )
        for name, result in results.items()
        if result is not None
    ]
