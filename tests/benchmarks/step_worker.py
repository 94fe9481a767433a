"""Makes a step of the tiny run of the working directory for every line of its input, in one process.

It runs the code of the tree in PYTHONPATH, which may be the present one or 55aacb9, and prints the CPU seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

CONFIG = "launch/configs/tiny/unigrpo.yaml"


class NoOutput:
    """An output that discards everything."""

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def rollouts(self, step: int, rows: list[dict[str, Any]]) -> None: ...

    def progress(self, step: int, values: dict[str, float]) -> None: ...


def steps(run_dir: str) -> Callable[[], object]:
    """Returns a function that makes the next step."""
    try:
        from unigrpo import LocalTrainer, RunConfig  # noqa: PLC0415
    except ImportError:
        return _steps_of_55aacb9(run_dir)
    return LocalTrainer(RunConfig.from_yaml(CONFIG, {"run_dir": run_dir}), device="cpu").step


def _steps_of_55aacb9(run_dir: str) -> Callable[[], object]:
    """Returns steps of a trainer that is built as in the tests of that commit."""

    def of(module: str) -> Any:
        return import_module(f"unigrpo.{module}")

    arguments = of("cli.arguments")
    parser = arguments.run_parser("train_unigrpo", "")
    parsed = arguments.parse(parser, ["--config", CONFIG, "--run_dir", run_dir])
    config = of("cli.paths").with_absolute_paths(arguments.built(parsed, of("config").RunConfig))
    inputs = of("preflight").check_inputs(config)
    folder = config.actor.model_name_or_path
    model, reference = (of("models.checkpoint_io").load_policy(folder, torch.float32, "sdpa") for _ in range(2))
    tokenizer = of("preflight").load_tokenizer(folder)
    vocabulary = of("models.vocabulary").Vocabulary.from_pretrained_parts(model.config, tokenizer)
    engine = of("training.step").LocalEngine(model, config.actor, config.num_optimizer_steps)
    scoring = of("training.scoring").ScoringSettings.of_run(config, vocabulary)
    group = of("workers.group").LocalGroup
    images = of("preflight").find_image_tokenizer("", folder)
    trainer = of("trainer").UniGRPOTrainer(
        config,
        policy=group(of("workers.policy").PolicyWorker(config, engine, tokenizer, images)),
        reference=group(
            of("workers.reference").ReferenceWorker(config, reference.eval(), torch.device("cpu"), scoring)
        ),
        reward=of("workers.reward").LocalRewards(config.reward),
        prompts=inputs.prompts,
        eval_prompts=inputs.eval_prompts,
        checkpoints=of("checkpoint").CheckpointStore(Path(run_dir) / "checkpoints", max_num=1),
    )

    def step() -> None:
        trainer.train_step(trainer.state.step, NoOutput())
        trainer.state.step += 1

    return step


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        step = steps(f"{folder}/run")
        for _ in sys.stdin:
            started = time.process_time()
            step()
            sys.stdout.write(f"{time.process_time() - started}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
