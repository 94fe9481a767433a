"""Opens a local web page for all tasks of a checkpoint that shows every denoising step.

The page listens on loopback unless --host names another address. Example: --model Gen-Verse/MMaDA-8B-MixCoT
--image_tokenizer showlab/magvitv2, or with the tiny model: --model examples/tiny/mixcot
"""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.cli.main import run_old_name
from unigrpo.cli.policy_defaults import set_policy_defaults
from unigrpo.config.generate import DemoConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo demo``. Returns the exit status."""
    parser = run_parser("unigrpo demo", __doc__ or "", DemoConfig)
    set_policy_defaults(parser, arguments)
    config = config_from_args(parse(parser, arguments, DemoConfig), DemoConfig)
    from unigrpo.cli.demo_page import serve  # noqa: PLC0415  # loads torch, which --help need not

    serve(config)
    return 0


if __name__ == "__main__":
    run_old_name("unigrpo.cli.demo", "demo")
