"""Runs in these tests' own process compile their step quickly: it takes a few steps only."""

import pytest

from tests.support.quick_compiler import QUICK
from tvt_jax import memory


@pytest.fixture(autouse=True, scope="module")
def quick():
    real = memory.compile_program

    def compile_program(lowered, what, advice, options):
        return real(lowered, what, advice, {**(options or {}), **QUICK})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "compile_program", compile_program)
        yield
