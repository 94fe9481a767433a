"""Print a script that completes commands and flags in a shell. In ~/.bashrc: eval "$(unigrpo completion bash)"."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Sequence

from unigrpo.cli.main import COMMANDS, run_command

FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")
SCRIPT = """\
{zsh}_unigrpo() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} flags=
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$current"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    case $current in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
    *) COMPREPLY=($(compgen -f -- "$current")) ;;
    esac
}}
complete -o filenames -F _unigrpo unigrpo
"""


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo completion``. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="unigrpo completion", description=__doc__)
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that reads the script")
    sys.stdout.write(script(parser.parse_args(list(arguments)).shell))
    return 0


def script(shell: str) -> str:
    """Returns the script of a shell, with the flags of every command."""
    cases = [f"    {name}) flags='{' '.join(flags(name))}' ;;" for name in COMMANDS if name != "completion"]
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return SCRIPT.format(commands=" ".join(COMMANDS), cases="\n".join(cases), zsh=zsh)


def flags(name: str) -> list[str]:
    """Returns the flags that the help of a command names."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        run_command(name, ["--help"])
    return sorted(set(FLAG.findall(page.getvalue())))
