"""The report outlives its sections. Real ones run on a GPU, and small by `--small`."""

import json
import time

import pytest

from tests.comparisons.gpu_report import FULL, SMALL, TOTAL, Section, make_report

STUB = """
import json, subprocess, sys, time
what = sys.argv[1]
print("| a |\\n|---|\\n| 1 |", flush=True)
if what == "good":
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({"speeds": [7]}))
if what == "slow":
    child = f"import time; time.sleep(2); open({sys.argv[2]!r}, 'w')"
    subprocess.run([sys.executable, "-c", child])
sys.exit({"bad": "broken here"}.get(what, 0))
"""


def test_one_failing_section_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "stub_section.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sections = [
        Section("Broken", ("stub_section", "bad"), 30, False),
        Section("Endless", ("stub_section", "slow", str(tmp_path / "late")), 1, False),
        Section("Sound", ("stub_section", "good"), 30),
    ]
    outcomes = make_report(sections, tmp_path / "report")
    assert [o.problem is None for o in outcomes] == [False, False, True]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Broken\n\n`python -m stub_section bad`, " in text
    assert "Failed: exit status 1; broken.log has the reason." in text
    assert "broken here" in (tmp_path / "report" / "broken.log").read_text()
    assert "Failed: ended after 1 s." in text and text.count("| 1 |") == 3
    written = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]
    assert [row["figures"] for row in written] == [None, None, {"speeds": [7]}]
    time.sleep(2)
    assert not (tmp_path / "late").exists()  # the section's own processes ended, too


def test_no_section_begins_after_the_time(tmp_path):
    [outcome] = make_report([Section("Late", ("nothing",), 9, False)], tmp_path, total=0)
    assert outcome.problem == "left out: no time was left"
    assert "Failed: left out: no time was left." in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("sections", [FULL, SMALL])
def test_sections_have_titles_of_their_own(sections):
    """Their logs are named by them; what matters most fits the time."""
    assert len({section.title for section in sections}) == len(sections)
    assert sum(section.limit for section in sections[:4]) < TOTAL
