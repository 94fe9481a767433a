"""Tests the ``unigrpo`` command: subcommands, help, version, and the old module names."""

import errno
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from unigrpo import DataError, __version__
from unigrpo.cli import completion
from unigrpo.cli.main import COMMANDS, GROUPS, Command, help_text, main, run_command


def test_every_subcommand_is_a_function():
    for name, command in COMMANDS.items():
        module, _, function = command.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_the_help_page_lists_every_subcommand_once_below_its_group():
    lines = help_text().splitlines()
    for title, commands in GROUPS.items():
        start = lines.index(f"{title}:") + 1
        assert [line.split()[0] for line in lines[start : start + len(commands)]] == list(commands)


def test_help_and_version_need_no_subcommand(capsys):
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == help_text()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unigrpo {__version__}\n"
    assert main([]) == 2


def test_an_unknown_subcommand_gets_the_nearest_name(capsys):
    assert main(["evalute"]) == 2
    assert capsys.readouterr().err == "error: unigrpo has no command 'evalute'; did you mean evaluate?\n"


def test_wrong_input_is_one_line_and_other_errors_are_raised(capsys, monkeypatch):
    def fails(arguments):
        raise {"input": DataError, "bug": ValueError}[arguments[0]]("found x; expected y")

    monkeypatch.setattr("unigrpo.cli.report.run", fails)
    assert main(["report", "input"]) == 2
    assert capsys.readouterr().err == "error: found x; expected y\n"
    with pytest.raises(ValueError, match="found x"):
        main(["report", "bug"])


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (
            errno.ELOOP,
            "out/a.png: Too many levels of symbolic links; check this file and its disk, or name another file",
        ),
        (errno.EROFS, "out/a.png: Read-only file system; name a file or folder on a disk that can be written"),
        (
            errno.ENOSPC,
            "out/a.png: No space left on device; free some space on its disk, and start the same command again",
        ),
        (
            errno.EMFILE,
            "out/a.png: Too many open files; raise the number of files that a process may open with `ulimit",
        ),
    ],
)
def test_an_error_of_the_file_system_is_one_line_with_what_to_do(capsys, monkeypatch, code, shown):
    def fails(arguments):
        raise OSError(code, os.strerror(code), "out/a.png")

    monkeypatch.setattr("unigrpo.cli.report.run", fails)
    assert main(["report", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {shown}")


def test_an_existing_file_in_place_of_the_output_folder_is_an_error_of_one_line(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["prepare", "countdown", "--output", str(tmp_path / "file" / "a.jsonl")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/file: File exists; name another file or folder\n"


def test_an_error_of_a_library_without_a_number_stays_a_traceback(monkeypatch):
    def fails(arguments):
        raise OSError("found x")

    monkeypatch.setattr("unigrpo.cli.report.run", fails)
    with pytest.raises(OSError, match="found x"):
        main(["report", "run"])


def test_the_exit_status_is_the_one_of_the_subcommand(monkeypatch):
    monkeypatch.setitem(COMMANDS, "three", Command("tests_of_main:three", ""))
    monkeypatch.setitem(sys.modules, "tests_of_main", type("m", (), {"three": staticmethod(lambda arguments: 3)}))
    assert run_command("three", []) == 3


def test_the_help_of_no_command_loads_a_package_that_takes_seconds():
    script = """import sys
from unigrpo.cli.main import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit:
        pass
    slow = {"torch", "ray", "transformers", "datasets", "pandas", "sympy"}
    print("LOADED by", name, sorted(slow & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert [line for line in shown.splitlines() if line.startswith("LOADED by")] == [
        f"LOADED by {name} []" for name in COMMANDS
    ]
    assert [name for name in COMMANDS if f"usage: unigrpo {name}" not in shown] == []
    assert "Path to a configuration file" not in shown


def test_an_unknown_gpu_is_refused_with_the_settings(capsys):
    assert main(["train", "--config", "launch/configs/tiny_text.yaml", "--check_settings", "--gpu", "h300"]) == 2
    assert capsys.readouterr().err.startswith("error: argument --gpu: invalid choice: 'h300'")


def test_the_completion_script_completes_commands_flags_and_files(tmp_path):
    script = completion.script("bash")
    assert completion.script("zsh") == "autoload -U +X bashcompinit && bashcompinit\n" + script
    (tmp_path / "run.yaml").touch()

    def completed(*words):
        line = " ".join(f"'{word}'" for word in ("unigrpo", *words))
        asked = f'COMP_WORDS=({line}); COMP_CWORD={len(words)}; _unigrpo; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{asked}"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert completed("ev") == ["evaluate"]
    assert completed("train", "--train.num_s") == ["--train.num_steps"]
    assert "--layout" in completed("generate", "--")
    assert completed("train", "--config", "ru") == ["run.yaml"]


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1")],
)
@pytest.mark.parametrize("message", ["a half is done", ""], ids=["with advice", "without advice"])
def test_a_signal_ends_a_command_with_one_line_and_its_status(capsys, monkeypatch, number, name, message):
    def stopped(arguments):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(*filter(None, [message])) from error

    monkeypatch.setattr("unigrpo.cli.report.run", stopped)
    before = signal.getsignal(number)
    assert main(["report", "run"]) == 128 + number
    advice = message or "the same command starts it again"
    assert capsys.readouterr().err == f"\nunigrpo report was stopped by {name}; {advice}\n"
    assert signal.getsignal(number) == before


def test_a_forked_process_of_a_command_ends_without_output(capfd, monkeypatch):
    def tells_and_waits(started):
        started.set()
        time.sleep(60)

    def forks(arguments):
        fork = multiprocessing.get_context("fork")
        started = fork.Event()
        child = fork.Process(target=tells_and_waits, args=(started,))
        child.start()
        # Python drops a signal that arrives before the new process has finished its cleanup after the fork.
        started.wait()
        child.terminate()
        child.join()
        return 1 + (child.exitcode == -signal.SIGTERM)

    monkeypatch.setattr("unigrpo.cli.report.run", forks)
    assert main(["report", "run"]) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("module", "name"),
    [("unigrpo.cli.train_mixcot", "mixcot"), ("unigrpo.cli.grow_vocabulary", "add-image-tokens")],
)
def test_an_old_module_name_works_and_prints_the_new_one(module, name):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stderr == f"`python -m {module}` is now `unigrpo {name}`; the old name works until version 0.3\n"
    assert done.stdout.startswith(f"usage: unigrpo {name}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "-1"], "--rows is -1; it must lie in [0, inf]"),
        (["--resolution", "0"], "--resolution is 0; it must be a number above 0"),
        (["--max_bad_fraction", "nan"], "data.max_bad_fraction is nan; it must lie in [0.0, 1.0]"),
    ],
)
def test_flags_of_data_outside_of_their_range_are_refused(capsys, tmp_path, flags, message):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "label": "1"}\n')
    assert main(["data", str(tmp_path / "a.jsonl"), *flags]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
