"""Prints one sentence about what the policy learned in the quickstart: python examples/tiny/closing_sentence.py
RUN."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DONE = {
    "math_answer_sampled/text": "answers {after:.0%} of the held-out sums right ({before:.0%} before)",
    "math_answer_sampled/mmu": "answers {after:.0%} of the held-out image questions right ({before:.0%} before)",
    "shape_match_sampled/t2i": "draws {after:.0%} of the held-out captions right ({before:.0%} before)",
}
"""Description of each held-out metric in the sentence."""
NUM_STEPS = 36
"""Steps of launch/configs/tiny/unigrpo.yaml, after which the gains of examples/tiny/README.md were measured."""


def main() -> None:
    """Prints the sentence of the run that the command line names, or nothing if its summary is on another machine."""
    file = Path(sys.argv[1]) / "summary.json"
    if file.exists():
        print(sentence(json.loads(file.read_text())))


def sentence(summary: dict[str, Any]) -> str:
    """Returns the held-out metrics before and after the run, and its duration, as a sentence."""
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    known = [name for name in DONE if name in before and name in after]
    if not known:
        return f"The policy was trained for {summary['wall_seconds']:.0f} s, and no held-out prompts measured it."
    parts = [DONE[name].format(before=before[name], after=after[name]) for name in known]
    listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    text = f"After {summary['wall_seconds']:.0f} s and {summary['steps']} steps of UniGRPO, the policy {listed}."
    if summary["steps"] >= NUM_STEPS:
        return text
    return f"{text} The measured gains take the {NUM_STEPS} steps of the config; after fewer, answers may be worse."


if __name__ == "__main__":
    main()
