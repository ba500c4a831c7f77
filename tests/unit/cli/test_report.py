from pathlib import Path

import pytest
from trace_sample import write

from tracer.cli import main, report

Output = pytest.CaptureFixture[str]


def told(capsys: Output, folder: Path) -> list[str]:
    """Write a page of a trace of five accesses; return what is said."""
    words = ["report", str(write(folder / "run.vtrace")), "-o", str(folder / "page.html")]
    assert main.main(words) == 0
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("limit", ["_LARGE", "_HEAVY"])
def test_what_a_large_page_costs_is_told_with_what_to_do(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    pytest.importorskip("bokeh")
    written = f"vetrace: 5 accesses written to {tmp_path / 'page.html'}"
    assert told(capsys, tmp_path) == [written]
    monkeypatch.setattr(report, limit, 4)
    first, second = told(capsys, tmp_path)
    assert first == written
    assert "some seconds to open a page of " in second and "--if 'CONDITION'" in second
