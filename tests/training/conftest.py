"""Runs in these tests' own process compile their step quickly: it takes a few steps only."""

import jax
import pytest

from tests.support.quick_compiler import QUICK
from tvt_jax import memory


class _Quick:
    def __init__(self, lowered):
        self._lowered = lowered

    def compile(self):
        return self._lowered.compile(compiler_options=QUICK)


@pytest.fixture(autouse=True, scope="module")
def quick():
    real = memory.compile_program

    def compile_program(lowered, *words):
        step = isinstance(lowered, jax.stages.Lowered)
        return real(_Quick(lowered) if step else lowered, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "compile_program", compile_program)
        yield
