"""The process that compares expressions reads and writes JSON lines, and limits its own CPU time and memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

MEMORY = 2 * 1024**3
"""Number of bytes of address space that the process may have."""


def main(cpu_seconds: float) -> None:
    """Answers ``[gold, answer]`` with true, false, or null for an error, until its input ends.

    Args:
        cpu_seconds: CPU time for one comparison. SIGPROF ends the process when it is spent.
    """
    for which, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints may look like an answer
    from rewards.grading.symbolic import equal  # noqa: PLC0415 - after the memory limit

    equal("\\sqrt{x}", "x^{1/2}")  # what sympy loads at its first use is no part of a comparison
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            outcome = equal(*json.loads(line))
        except Exception:  # sympy may fail in any way on a model's text
            outcome = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]))
