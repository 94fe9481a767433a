"""The page of ``unigrpo demo``: a tab for each task, on which every denoising step is shown."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from unigrpo import ConfigError
from unigrpo.cli.demo_guard import MAX_UPLOAD_BYTES, RequestGuard
from unigrpo.cli.images import MASKED, image_frames
from unigrpo.config import (
    IMAGE_OUTPUT_TASKS,
    DataConfig,
    ImageSamplingConfig,
    TextSamplingConfig,
    check_image_steps,
    check_text_steps,
)
from unigrpo.config.checks import valid_seed
from unigrpo.config.generate import DemoConfig
from unigrpo.library.policy import torch_device
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt, Trajectory
from unigrpo.workers.generation import TaskSampler

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECONDS_PER_STEP = 0.12
"""Duration of each step while the denoising is played."""
TASKS = {
    "text": ("Answer", "A question", "What is 3 + 4?"),
    "mmu": ("Describe", "A question about the image", "How many shapes are there?"),
    "t2i": ("Generate", "What the image shows", "a large red circle on the left"),
    "r2i": ("Think, then generate", "What the image shows", "draw a tomato on the left"),
}
"""Name of the tab of each task, and label and placeholder of its text."""

Words = list[tuple[str, str | None]]
"""Pieces of text with the name of their colour."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One step of a denoising, as the page shows it."""

    words: Words
    image: Image.Image | None


class Demo:
    """A checkpoint that the page calls."""

    def __init__(self, config: DemoConfig) -> None:
        """Loads the checkpoint.

        Raises:
            ValueError: The checkpoint cannot be loaded.
        """
        self.config = config
        device = torch_device(config.device)
        tokenizer = load_tokenizer(config.model)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._model = load_policy(config.model, dtype, "sdpa").to(device)  # type: ignore[arg-type]
        image_tokenizer = find_image_tokenizer(config.image_tokenizer, config.model)
        if image_tokenizer is not None:
            image_tokenizer.to(device)  # type: ignore[arg-type]
        self._sampler = TaskSampler(
            tokenizer=tokenizer,
            vocabulary=Vocabulary.from_pretrained_parts(self._model.config, tokenizer),
            data=DataConfig(
                prompt_template=config.prompt_template,
                prompt_templates=config.prompt_templates,
                instruction=config.instruction,
                instructions=config.instructions,
            ),
            image_tokenizer=image_tokenizer,
            resolution=config.resolution,
            fit=config.fit,
            max_text_tokens=self._model.config.max_text_tokens,
        )

    def reason_unavailable(self, task: str) -> str:
        """Returns why the checkpoint cannot do a task; empty if it can."""
        if task == "text":
            return ""
        if not self._sampler.vocabulary.codebook_size:
            return "This checkpoint knows text only (its codebook_size is 0)."
        if self._sampler.image_tokenizer is None:
            return "No image tokenizer: start the demo with --image_tokenizer FOLDER."
        return ""

    def most_steps(self, task: str) -> int:
        """How many denoising steps a task may have: one for each token, or code of an image, that is sampled."""
        return self._sampler.num_image_tokens if task in IMAGE_OUTPUT_TASKS else self.config.text.max_new_tokens

    def run(
        self,
        task: str,
        prompt: str,
        input_image: str | None,
        steps: int,
        temperature: float,
        guidance: float,
        seed: int,
    ) -> list[Shown]:
        """Generates one sample and yields every step.

        Args:
            task: A key of :data:`TASKS`.
            prompt: Text of the user.
            input_image: File of the input image, for `mmu`.
            steps: Number of forward passes of the image, or of the text if there is no image.
            temperature: Divisor of the logits.
            guidance: Scale of classifier-free guidance of images; 0 switches it off.
            seed: Seed of all random numbers.

        Raises:
            ValueError: An input is missing or does not fit.
        """
        if reason := self.reason_unavailable(task):
            raise ConfigError(reason)
        if not prompt.strip():
            raise ConfigError("The text is empty; write something.")
        if task == "mmu" and not input_image:
            raise ConfigError("There is no image; upload one.")
        valid_seed("The seed", seed)
        has_image = task in IMAGE_OUTPUT_TASKS
        text, image = self.config.text, self.config.image
        if has_image:
            image = replace(
                image,
                num_image_tokens=self._sampler.num_image_tokens,
                num_denoising_steps=steps,
                temperature=temperature,
                guidance_scale=guidance,
            )
        else:
            text = replace(text, num_denoising_steps=steps, temperature=temperature)
        one = Prompt(id="demo", text=prompt.strip(), task=task, images=(input_image,) if input_image else ())
        check_text_steps("", text)
        if has_image:
            check_image_steps("", image)
        self._check_length(one, text, image)
        generator = torch.Generator(self._model.device).manual_seed(seed)
        sample = self._sampler.generate(self._model, [one], text, image, [generator])[0]
        words = self._words(sample) if task != "t2i" else [[]]
        final = self._sampler.images([sample])[0]
        if final is None:
            return [Shown(words=one, image=None) for one in words]
        large = final.resize((max(256, final.width), max(256, final.height)), Image.Resampling.NEAREST)
        frames = image_frames(large, sample.commit_step[sample.image_mask])
        thinking = [Shown(words=one, image=frames[0]) for one in words[:-1]]
        return thinking + [Shown(words=words[-1], image=frame) for frame in frames]

    def _check_length(self, prompt: Prompt, text: TextSamplingConfig, image: ImageSamplingConfig) -> None:
        """Raises ValueError for a prompt that leaves no room for its response."""
        tokens = len(self._sampler.encode([prompt])[0])
        response = text.max_new_tokens * (prompt.task != "t2i")
        response += image.num_image_tokens * (prompt.task in IMAGE_OUTPUT_TASKS)
        limit = self._model.config.max_sequence_length
        if tokens + response > limit:
            raise ConfigError(
                f"The text has {tokens} tokens and the response {response}, but the model was made for {limit}; "
                "write a shorter text."
            )

    def _words(self, sample: Trajectory) -> list[Words]:
        """Returns the text after each step: masked tokens, the tokens of this step, and older ones."""
        is_shown = sample.scored_mask & sample.text_mask
        tokens = self._sampler.tokenizer.batch_decode(sample.token_ids[is_shown][:, None])
        at = sample.commit_step[is_shown].tolist()
        special = set(self._sampler.tokenizer.all_special_tokens)
        shown = [(token, step) for token, step in zip(tokens, at, strict=True) if token not in special]

        def word(token: str, step: int, now: int) -> tuple[str, str | None]:
            return (MASKED, "masked") if step > now else (token, "new" if step == now else None)

        return [[word(token, step, now) for token, step in shown] for now in range(-1, max(at, default=-1) + 2)]


def build_page(demo: Demo) -> Any:
    """Returns the page, ready to be launched.

    Raises:
        ValueError: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: PLC0415  # seconds to import, and optional
    except ImportError as error:
        raise ConfigError("the demo needs Gradio: .venv/bin/python -m pip install 'gradio==6.31.0'") from error
    with gradio.Blocks(title="UniGRPO", analytics_enabled=False) as page:
        gradio.Markdown(
            f"## UniGRPO\n`{demo.config.model}`: every step of the denoising is shown, and can be replayed."
        )
        for task in TASKS:
            with gradio.Tab(TASKS[task][0], id=task):
                if reason := demo.reason_unavailable(task):
                    gradio.Markdown(f"*Not available.* {reason}")
                else:
                    _build_tab(gradio, demo, task)
    return page


def _build_tab(gradio: Any, demo: Demo, task: str) -> None:
    """Builds a tab with inputs on the left and the denoising on the right."""
    has_image = task in IMAGE_OUTPUT_TASKS
    sampling = demo.config.image if has_image else demo.config.text
    _, label, placeholder = TASKS[task]
    with gradio.Row():
        with gradio.Column():
            input_image = gradio.Image(
                type="filepath", label="Image", visible=task == "mmu", height=256, sources=["upload", "clipboard"]
            )
            prompt = gradio.Textbox(label=label, placeholder=placeholder, elem_id=f"{task}-prompt")
            with gradio.Accordion("Sampling", open=False):
                steps = gradio.Number(
                    sampling.num_denoising_steps, label="Steps", precision=0, minimum=1, maximum=demo.most_steps(task)
                )
                temperature = gradio.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature")
                guidance = gradio.Slider(
                    0, 10, demo.config.image.guidance_scale, step=0.1, label="Guidance", visible=has_image
                )
                seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
            button = gradio.Button(TASKS[task][0], variant="primary", elem_id=f"{task}-run")
        with gradio.Column():
            colours = {"masked": "#d0d0d0", "new": "#ffb347"}
            words = gradio.HighlightedText(
                label="Text", color_map=colours, visible=task != "t2i", elem_id=f"{task}-words", show_legend=True
            )
            output_image = gradio.Image(
                label="Generated image",
                visible=has_image,
                elem_id=f"{task}-image",
                height=320,
                buttons=["download", "fullscreen"],
            )
            step = gradio.Slider(0, 1, 0, step=1, label="Step", interactive=True, elem_id=f"{task}-step")
    steps_state = gradio.State([])

    def play(*values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            shown = demo.run(
                task, values[1], values[0], int(values[2] or 0), values[3], values[4], int(values[5] or 0)
            )
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        for number, one in enumerate(shown):
            time.sleep(SECONDS_PER_STEP if number else 0)
            slider = gradio.Slider(0, len(shown) - 1, number, step=1, label="Step")
            yield one.words, one.image, slider, shown

    def replay(number: float, shown: list[Shown]) -> tuple[Any, Any]:
        one = shown[min(int(number), len(shown) - 1)] if shown else Shown(words=[], image=None)
        return one.words, one.image

    inputs = [input_image, prompt, steps, temperature, guidance, seed]
    for event in (button.click, prompt.submit):
        event(play, inputs, [words, output_image, step, steps_state], api_name=False)
    # Not `release`, which the keyboard and the number beside the slider do not cause.
    step.input(
        replay,
        [step, steps_state],
        [words, output_image],
        api_name=False,
        show_progress="hidden",
        trigger_mode="always_last",
    )


def launch(page: Any, config: DemoConfig, **options: Any) -> tuple[Any, str, str]:
    """Opens the page, by default until Ctrl-C. Options are those of Gradio's ``launch``, and so is what it returns."""
    from starlette.middleware import Middleware  # noqa: PLC0415  # belongs to Gradio, which is optional

    guard = Middleware(RequestGuard, allowed_hosts=frozenset(name.lower() for name in config.allowed_hosts))
    return page.launch(
        server_name=config.host,
        share=False,
        quiet=True,
        footer_links=[],
        max_file_size=MAX_UPLOAD_BYTES,
        app_kwargs={"middleware": [guard]},
        **options,
    )


def serve(config: DemoConfig) -> None:
    """Loads the checkpoint and serves the page until the process ends.

    Raises:
        ConfigError: The checkpoint cannot be loaded, Gradio is not installed, or the port is not free.
    """
    page = build_page(Demo(config))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is there
    if config.host not in LOOPBACK:
        logger.warning("listening on %s: everybody who reaches this machine can use the model", config.host)
    sys.stdout.write(f"open http://{config.host}:{config.port} (Ctrl-C ends it)\n")
    try:
        launch(page, config, server_port=config.port)
    except OSError as error:
        raise ConfigError(f"port {config.port} cannot be used ({error}); choose another with --port") from error
