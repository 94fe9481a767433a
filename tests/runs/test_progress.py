"""Tests progress in a pipe: whole lines without colours and control characters, at limited intervals."""

from unigrpo.runs import progress as progress_module
from unigrpo.runs.progress import ProgressBar, ProgressLines, progress


def test_lines_in_a_pipe_have_the_step_the_values_and_the_time_left(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    lines = ProgressLines("UniGRPO", 12, 2, "step")
    for step in range(3, 13):
        clock[0] += 2.0
        lines.show(step, {"text": f"0.{step}", "s/step": "2.0"})
    lines.close()
    assert capsys.readouterr().err.splitlines() == [
        "UniGRPO: step 3 of 12: text 0.3, s/step 2.0; 18 s left",
        "UniGRPO: step 6 of 12: text 0.6, s/step 2.0; 12 s left",
        "UniGRPO: step 9 of 12: text 0.9, s/step 2.0; 6 s left",
        "UniGRPO: step 12 of 12: text 0.12, s/step 2.0; 0 s left",
    ]


def test_other_units_and_lines_without_values(capsys):
    lines = progress("text", 4, unit="pass")
    lines.show(4, {})
    assert capsys.readouterr().err == "text: pass 4 of 4; 0 s left\n"


def test_a_terminal_gets_a_bar_and_a_pipe_lines(monkeypatch):
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress("UniGRPO", 2, 0)
    bar.close()
    assert isinstance(bar, ProgressBar)
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(progress("UniGRPO", 2, 0), ProgressLines)
