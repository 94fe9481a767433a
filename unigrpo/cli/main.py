"""The ``unigrpo`` command. It finds the subcommand and runs it.

A subcommand is a function of its arguments that returns the exit status. Its module is imported only when it runs, so
that every ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from unigrpo import CheckpointError, ConfigError, DataError, __version__
from unigrpo.runs.secrets import SecretFilter, without_secrets
from unigrpo.runs.stopping import StopRequest

SHOWN = 300
"""Number of characters of a file's name that are shown."""
ADVICE = {
    errno.ENOENT: "restore it, or name another file or folder",
    errno.EACCES: "change its permissions, or name another file or folder",
    errno.EPERM: "change its permissions, or name another file or folder",
    errno.EROFS: "name a file or folder on a disk that can be written",
    errno.ENOSPC: "free some space on its disk, and start the same command again",
    errno.EDQUOT: "free some space below your quota, and start the same command again",
    errno.EEXIST: "name another file or folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a part of this path is a file; name another file or folder",
    errno.EISDIR: "this is a folder; name a file",
    errno.EMFILE: "raise the number of files that a process may open with `ulimit -n 8192`, and start again",
    errno.ENFILE: "too many files are open on this machine; end other programs, and start again",
}
"""What to do about errors of the file system that no command expects, such as an output on a disk without room."""
OTHER_ADVICE = "check this file and its disk, or name another file"
"""What to do about any other error of a file."""


@dataclass(frozen=True)
class Command:
    """A subcommand: where its function is, and one line of help."""

    function: str
    """``module:function``."""
    summary: str


GROUPS: dict[str, dict[str, Command]] = {
    "Train": {
        "train": Command(
            "unigrpo.cli.train:run", "train a policy with UniGRPO on text, image understanding and image generation"
        ),
        "pretrain": Command("unigrpo.cli.train_stage:pretrain", "pretrain a model (stages 1.1 to 1.3)"),
        "mixcot": Command("unigrpo.cli.train_stage:mixcot", "fine-tune on chains of thought (stages 2.1 and 2.2)"),
    },
    "Use a model": {
        "generate": Command("unigrpo.cli.generate:run", "generate text, answers about images, or images"),
        "demo": Command("unigrpo.cli.demo:run", "open a local web page that shows every denoising step"),
        "evaluate": Command("unigrpo.cli.evaluate:run", "compare checkpoints on held-out prompts"),
        "export": Command("unigrpo.cli.export:run", "convert a checkpoint to a model folder, and push it to the Hub"),
        "report": Command("unigrpo.cli.report:run", "write the report of a run directory again"),
        "add-image-tokens": Command("unigrpo.cli.add_image_tokens:run", "add image tokens to a LLaDA checkpoint"),
    },
    "Data and rewards": {
        "data": Command("unigrpo.cli.data:run", "show the prompts of a data set as the policy will see them"),
        "prepare": Command("unigrpo.cli.prepare:run", "write a prompt file from a public data set or a generator"),
        "convert-cot": Command("unigrpo.cli.convert_cot:run", "convert solved questions to chain-of-thought data"),
        "index-tars": Command("unigrpo.cli.index_tars:run", "store the positions of the samples in webdataset tars"),
        "grade": Command("rewards.grade:main", "grade a file of predictions"),
        "try-reward": Command("rewards.try_reward:main", "run a reward on a file of samples, without training"),
    },
    "Shell": {
        "completion": Command("unigrpo.cli.completion:run", "print a shell script that completes commands and flags"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        arguments: The command line without the program's name; None reads it from ``sys.argv``.

    Returns:
        The exit status: 2 for wrong input, which is reported in one line, and 128 plus its number after a signal, as
        shells have it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0 if given else 2
    if given[0] == "--version":
        sys.stdout.write(f"unigrpo {__version__}\n")
        return 0
    if given[0] not in COMMANDS:
        close = difflib.get_close_matches(given[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`unigrpo --help` lists the commands"
        sys.stderr.write(f"error: unigrpo has no command {given[0]!r}; {hint}\n")
        return 2
    return run_command(given[0], given[1:])


def console() -> None:
    """Runs the ``unigrpo`` console script."""
    sys.exit(main())


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Runs one subcommand, and reports wrong input and a signal in one line. Returns the exit status.

    A command that can continue after a signal raises KeyboardInterrupt with a message that says how.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for handler in logging.getLogger().handlers:
        handler.addFilter(SecretFilter())
    # Where the Hub cannot be reached, it prints each of its attempts; the error at the end says it once.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    for library in ("huggingface_hub", "datasets"):
        logging.getLogger(library).propagate = False  # they have handlers of their own, and would print twice
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it prints a line for each request
    module, _, function = COMMANDS[name].function.partition(":")
    stop = StopRequest()
    try:
        with stop.handled():
            return getattr(importlib.import_module(module), function)(arguments) or 0
    except (ConfigError, DataError, CheckpointError) as error:
        sys.stderr.write(f"error: {without_secrets(str(error))}\n")
        return 2
    except OSError as error:
        if error.errno not in ADVICE and not error.filename:
            raise
        file = without_secrets(str(error.filename or ""))
        where = f"{file[:SHOWN]}{'...' * (len(file) > SHOWN)}: " if file else ""
        sys.stderr.write(f"error: {where}{error.strerror}; {ADVICE.get(error.errno or 0, OTHER_ADVICE)}\n")
        return 2
    except KeyboardInterrupt as error:
        by = stop.received.name if stop.received else "Ctrl-C"
        advice = str(error) or "the same command starts it again"
        sys.stderr.write(f"\nunigrpo {name} was stopped by {by}; {advice}\n")
        return 128 + stop.ending_signal


def run_old_name(module: str, name: str) -> None:
    """Runs a subcommand under its module name of version 0.1, which this version still accepts, and ends the process.

    Args:
        module: The old name, for example `unigrpo.cli.train_unigrpo`.
        name: The subcommand.
    """
    sys.stderr.write(f"`python -m {module}` is now `unigrpo {name}`; the old name works until version 0.3\n")
    sys.exit(run_command(name, sys.argv[1:]))


def help_text() -> str:
    """Returns the help page of ``unigrpo``, with the subcommands in groups."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: unigrpo COMMAND [--section.name VALUE ...]",
        "",
        "RL post-training for multimodal masked-diffusion language models.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())]
    lines += ["", "`unigrpo COMMAND --help` explains a command. `unigrpo --version` prints the version."]
    return "\n".join(lines) + "\n"
