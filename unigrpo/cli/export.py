"""Convert a checkpoint of a run to a model folder, and push it to the Hugging Face Hub.

The folder has weights, config, tokenizer and image tokenizer in the published format of MMaDA, sampling.json with the
sampling settings of the run, and a model card. The command needs CPU memory for one copy of the model, and no GPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo import CheckpointError, ConfigError
from unigrpo.cli.paths import UserPaths
from unigrpo.config import RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.config.parsing import config_from_args, parse, run_parser
from unigrpo.runs.config_file import CONFIG_FILE, read_settings

if TYPE_CHECKING:
    from unigrpo.runs.checkpoints import Checkpoint


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo export``. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="unigrpo export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run directory of a UniGRPO run or of a stage")
    parser.add_argument("--step", default="", help="step of the checkpoint, or `best`; by default the newest one")
    parser.add_argument("--output", default="", help="folder to write to; by default RUN/policy_step_STEP")
    parser.add_argument(
        "--push_to_hub", default="", metavar="OWNER/NAME", help="upload the folder to this model repository, too"
    )
    parser.add_argument("--private", action="store_true", help="make the model repository private if it is created")
    given = parser.parse_args(list(arguments))
    user = UserPaths()
    folder = Path(user.resolve_input(given.run))
    config = read_run(folder)
    from unigrpo.distributed.export import export_checkpoint  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.models.sampling_defaults import SamplingDefaults  # noqa: PLC0415
    from unigrpo.runs.checkpoints import checkpoint_path  # noqa: PLC0415
    from unigrpo.runs.model_card import read_progress, write_model_card  # noqa: PLC0415

    if given.push_to_hub:
        require_token(given.push_to_hub)
    found = find_checkpoint(checkpoint_path(config), given.step)
    output = Path(user.resolve_output(given.output)) if given.output else folder / f"policy_step_{found.step}"
    if output.exists():
        raise ConfigError(f"--output {output} exists already; name another folder, or delete it")
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        export_checkpoint(config, found.folder, part)
        SamplingDefaults.of_run(config).write(part)
        write_model_card(part, config, read_progress(folder, found.step))
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sys.stdout.write(f"policy of step {found.step}: {output}\n")
    if given.push_to_hub:
        sys.stdout.write(f"pushed to {push_to_hub(output, given.push_to_hub, private=given.private)}\n")
    return 0


def read_run(folder: Path) -> RunConfig | StageConfig:
    """Returns the config of a run directory.

    Raises:
        ConfigError: There is no run, or its config cannot be read.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder} holds no {CONFIG_FILE}; name the directory of a run")
    kind = StageConfig if "layout" in read_settings(folder) else RunConfig
    parser = run_parser("unigrpo export", "", kind)
    return config_from_args(parse(parser, ["--config", str(folder / CONFIG_FILE)], kind), kind)


def find_checkpoint(path: Path, step: str) -> Checkpoint:
    """Returns a complete checkpoint of a run.

    Args:
        path: Folder of the checkpoints.
        step: A number, `best`, or empty for the newest one.

    Raises:
        CheckpointError: There is no such checkpoint, or it is not complete.
    """
    from unigrpo.runs.checkpoints import CheckpointStore, best_checkpoint, read, saved_steps  # noqa: PLC0415  # loads torch

    steps = saved_steps(path)
    if step == "best":
        best = next((folder for folder in steps.values() if folder.name == best_checkpoint(path)[0]), None)
        if best is None:
            raise CheckpointError(f"{path}: no best checkpoint is known; name a step, one of {sorted(steps)}")
        return read(best)
    if step:
        if not step.isdecimal() or int(step) not in steps:
            raise CheckpointError(f"{path}: no checkpoint of step {step!r}; found {sorted(steps)}")
        return read(steps[int(step)])
    found = CheckpointStore(path, 1).latest()
    if found is None:
        raise CheckpointError(f"{path}: there is no checkpoint; a run writes one every ckpt.save_steps steps")
    return found


def require_token(name: str) -> None:
    """Raises ConfigError if there is no token of the Hub, which is needed to write a repository."""
    from huggingface_hub import get_token  # noqa: PLC0415  # slow import

    if get_token() is None:
        raise ConfigError(f"--push_to_hub {name}: no token; log in by `hf auth login`, or set HF_TOKEN")


def push_to_hub(folder: Path, name: str, *, private: bool) -> str:
    """Uploads a folder to a model repository, which is created if there is none.

    Args:
        folder: An exported policy.
        name: ``owner/name``.
        private: Whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: The Hub refused it or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415  # slow import

    from unigrpo.models.hub_errors import hub_problem  # noqa: PLC0415

    try:
        api = HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a policy of UniGRPO")
    except Exception as error:  # the Hub's client and those below it each raise their own kinds
        reason = hub_problem(error, name) or " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"--push_to_hub {name}: the Hub did not take it: {reason}. The policy is in {folder}; to send it, call "
            f"`hf upload {name} {folder}`"
        ) from error
    return str(address)
