"""Progress where there is no terminal."""

import pytest

from tvt_jax import progress as module
from tvt_jax.progress import Progress, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 20 s whenever it is read."""
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))


def test_lines_go_to_stderr_now_and_then(clock, capsys):
    assert list(progress("abcdefgh", "letters")) == list("abcdefgh")
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[0] == "letters: 1 of 8, about 2 min left"
    assert 2 <= len(lines) < 8 and printed.out == ""


def test_what_was_done_before_does_not_count_for_the_time_left(clock, capsys):
    with Progress() as show:
        for done in (90, 91, 92):
            show("tiles", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "tiles: 91 of 100, about 3 min left"


def test_quiet_is_quiet(clock, capsys):
    assert list(progress(range(9), "letters", quiet=True)) == list(range(9))
    assert capsys.readouterr().err == ""
