"""Generates the samples of a tiny step for every line of its input, with the code of the tree in PYTHONPATH.

It supports the module names of the present tree and of 55aacb9, and prints seconds and a digest of
tokens by task as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import torch

from unigrpo import config
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.records import Prompt, SampleRequest
from unigrpo.workers import rollout

MODEL = "examples/tiny/mixcot"
TASKS = ("text", "mmu", "t2i")
SAMPLES = 8


def run_config() -> Any:
    """Returns a config with the sampling settings of launch/configs/tiny/unigrpo.yaml."""
    settings = config.RolloutConfig(
        micro_batch_size=384,
        text=config.TextSamplingConfig(max_new_tokens=20, num_denoising_steps=10, block_length=10),
        image=config.ImageSamplingConfig(num_denoising_steps=8, guidance_scale=0.0),
    )
    is_new = hasattr(config, "ImageConfig")
    images = (config.ImageConfig if is_new else config.PicturesConfig)(resolution=64)  # type: ignore[attr-defined]
    section: dict[str, Any] = {"image" if is_new else "pictures": images}
    return config.RunConfig(
        data=config.DataConfig(max_prompt_tokens=40),
        rollout=settings,
        actor=config.ActorConfig(model_name_or_path=MODEL),
        **section,
    )


def prompts(number: int) -> list[Prompt]:
    """Returns the first prompts of each task of the held-out file."""
    try:
        from unigrpo.data.prompts import load_prompts  # noqa: PLC0415
    except ImportError:
        from unigrpo.data.prompt_files import load_prompts  # type: ignore[no-redef]  # noqa: PLC0415
    every = load_prompts("examples/tiny/world/test.jsonl", tasks=TASKS)
    return [prompt for task in TASKS for prompt in [p for p in every if p.task == task][:number]]


def main() -> None:
    torch.set_num_threads(1)
    try:
        from unigrpo.models.loading import find_image_tokenizer, load_tokenizer  # noqa: PLC0415
    except ImportError:
        from unigrpo.preflight import find_image_tokenizer, load_tokenizer  # type: ignore[no-redef]  # noqa: PLC0415
    settings = run_config()
    model = load_policy(MODEL, torch.float32, "sdpa").eval()
    writer = getattr(rollout, "RolloutGenerator", None) or rollout.RolloutWriter  # type: ignore[attr-defined]
    generator = writer(settings, model.config, load_tokenizer(MODEL), find_image_tokenizer("", MODEL))
    requests = [
        SampleRequest(prompt=prompt, group_id=group, sample_id=SAMPLES * group + number, step=0)
        for group, prompt in enumerate(prompts(int(sys.argv[1])))
        for number in range(SAMPLES)
    ]
    for _ in sys.stdin:
        seconds, tokens = {}, {}
        for task in TASKS:
            own = [request for request in requests if request.prompt.task == task]
            started = time.process_time()
            generate = getattr(generator, "generate", None) or generator.write
            rollouts = generate(model, 0, own, settings.rollout.text, settings.rollout.image)
            seconds[task] = time.process_time() - started
            if not isinstance(rollouts, list):
                rollouts = rollouts.rollouts([request.prompt for request in own])
            ids = b"".join(one.token_ids.numpy().tobytes() for one in rollouts)
            tokens[task] = hashlib.sha256(ids).hexdigest()
        sys.stdout.write(json.dumps({"seconds": seconds, "tokens": tokens}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
