"""The page of ``unigrpo demo``: a tab for each task, with every denoising step of one or two checkpoints."""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from unigrpo import ConfigError
from unigrpo.cli.animations import MASKED, image_frames
from unigrpo.cli.demo_guard import MAX_UPLOAD_BYTES, RequestGuard
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
from unigrpo.data.prompts import load_prompts
from unigrpo.library.policy import Policy
from unigrpo.records import Prompt, Trajectory

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_SAMPLES = 16
"""Largest number of samples that are generated together."""
NUM_EXAMPLES = 4
"""Largest number of example prompts of a task."""
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

    thoughts: Words
    """What the model writes before its answer or its image; empty if it does not think."""
    words: Words
    """The answer; empty for images."""
    image: Image.Image | None
    """The generated image, or several in a grid."""


class Demo:
    """A checkpoint that the page calls."""

    def __init__(self, config: DemoConfig) -> None:
        """Loads the checkpoint.

        Raises:
            ValueError: The checkpoint cannot be loaded.
        """
        self.config = config
        policy = Policy.from_pretrained(config.model, image_tokenizer=config.image_tokenizer, device=config.device)
        data = DataConfig(
            prompt_template=config.prompt_template,
            prompt_templates=config.prompt_templates,
            instruction=config.instruction,
            instructions=config.instructions,
        )
        self._model = policy.model
        self._sampler = policy.task_sampler(data, resolution=config.resolution, fit=config.fit)

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
        *,
        threshold: float = 0.0,
        num_samples: int = 1,
    ) -> list[Shown]:
        """Generates one or more samples and returns every step.

        Args:
            task: A key of :data:`TASKS`.
            prompt: Text of the user.
            input_image: File of the input image, for `mmu`.
            steps: Number of forward passes of the image, or of the text if there is no image.
            temperature: Divisor of the logits.
            guidance: Scale of classifier-free guidance of images; 0 switches it off.
            seed: Seed of the first sample; sample number i, from 0, uses seed + i.
            threshold: If above 0, each step of a text keeps all tokens with at least this confidence.
            num_samples: Number of samples, which are generated together.

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
        if not 1 <= num_samples <= MAX_SAMPLES:
            raise ConfigError(f"The number of samples is {num_samples}; it must lie in [1, {MAX_SAMPLES}].")
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
        text = replace(text, threshold=threshold)
        one = Prompt(id="demo", text=prompt.strip(), task=task, images=(input_image,) if input_image else ())
        check_text_steps("", text)
        if has_image:
            check_image_steps("", image)
        self._check_length(one, text, image)
        generators = [torch.Generator(self._model.device).manual_seed(seed + i) for i in range(num_samples)]
        samples = self._sampler.generate(self._model, [one] * num_samples, text, image, generators)
        images = self._sampler.images(samples)
        return _together([self._steps(task, sample, final) for sample, final in zip(samples, images, strict=True)])

    def _steps(self, task: str, sample: Trajectory, final: Image.Image | None) -> list[Shown]:
        """Returns the steps of one sample."""
        if final is None:
            return [Shown(thoughts=thoughts, words=words, image=None) for thoughts, words in self._words(sample)]
        large = final.resize((max(256, final.width), max(256, final.height)), Image.Resampling.NEAREST)
        frames = image_frames(large, sample.commit_step[sample.image_mask])
        # All text before an image is thoughts.
        texts = [thoughts + words for thoughts, words in self._words(sample)] if task == "r2i" else [[]]
        thinking = [Shown(thoughts=one, words=[], image=frames[0]) for one in texts[:-1]]
        return thinking + [Shown(thoughts=texts[-1], words=[], image=frame) for frame in frames]

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

    def _words(self, sample: Trajectory) -> list[tuple[Words, Words]]:
        """Returns thoughts and answer after each step: masked tokens, the tokens of this step, and older ones."""
        is_shown = sample.scored_mask & sample.text_mask
        tokens = self._sampler.tokenizer.batch_decode(sample.token_ids[is_shown][:, None])
        at = sample.commit_step[is_shown].tolist()
        special = set(self._sampler.tokenizer.all_special_tokens)
        end = _end_of_thoughts(tokens)
        parts = [
            [(token, step) for token, step in zip(tokens[part], at[part], strict=True) if token not in special]
            for part in (slice(end), slice(end, None))
        ]

        def word(token: str, step: int, now: int) -> tuple[str, str | None]:
            return (MASKED, "masked") if step > now else (token, "new" if step == now else None)

        def words(part: int, now: int) -> Words:
            return [word(token, step, now) for token, step in parts[part]]

        return [(words(0, now), words(1, now)) for now in range(-1, max(at, default=-1) + 2)]


def _end_of_thoughts(tokens: Sequence[str]) -> int:
    """Returns the number of tokens up to the end of ``</think>``, which may have several tokens; 0 without it.

    >>> _end_of_thoughts(["<think>", "1", "</", "think>", "2"]), _end_of_thoughts(["2"])
    (4, 0)
    """
    text = ""
    for number, token in enumerate(tokens, 1):
        text += token
        if "</think>" in text:
            return number
    return 0


def _together(samples: Sequence[Sequence[Shown]]) -> list[Shown]:
    """Returns the steps of several samples as those of one: texts as numbered lines, images in a grid.

    A finished sample does not change while others continue.
    """
    if len(samples) == 1:
        return list(samples[0])
    steps: list[Shown] = []
    for number in range(max(map(len, samples))):
        now = [one[min(number, len(one) - 1)] for one in samples]
        images = [one.image for one in now if one.image is not None]
        steps.append(
            Shown(
                thoughts=_lines([one.thoughts for one in now]),
                words=_lines([one.words for one in now]),
                image=_grid(images) if images else None,
            )
        )
    return steps


def _lines(texts: Sequence[Words]) -> Words:
    """Returns texts as numbered lines; nothing if all of them are empty."""
    if not any(texts):
        return []
    lines: Words = []
    for number, words in enumerate(texts, 1):
        lines += [(f"{chr(10) * (number > 1)}{number}: ", None), *words]
    return lines


def _grid(images: Sequence[Image.Image]) -> Image.Image:
    """Returns images of one size in a grid, row by row, about as wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    page = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    for number, image in enumerate(images):
        page.paste(image, (number % columns * width, number // columns * height))
    return page


def build_page(demo: Demo, other: Demo | None = None, examples: Sequence[Prompt] = ()) -> Any:
    """Returns the page, ready to be launched.

    Args:
        demo: The checkpoint.
        other: A second checkpoint that gets the same prompts, seeds and settings, and is shown beside the first.
        examples: Prompts that the page offers, the first ones of each task.

    Raises:
        ValueError: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: PLC0415  # seconds to import, and optional
    except ImportError as error:
        raise ConfigError("the demo needs Gradio: .venv/bin/python -m pip install 'gradio==6.31.0'") from error
    demos = [demo] if other is None else [demo, other]
    names = " and ".join(f"`{one.config.model}`" for one in demos)
    with gradio.Blocks(title="UniGRPO", analytics_enabled=False) as page:
        gradio.Markdown(f"## UniGRPO\n{names}: every step of the denoising is shown, and can be replayed.")
        with gradio.Tabs(overflow_behavior="wrap"):  # on a phone, a menu would hide some
            for task in TASKS:
                with gradio.Tab(TASKS[task][0], id=task):
                    able = [one for one in demos if not one.reason_unavailable(task)]
                    if len(able) < len(demos):
                        reasons = " ".join(
                            f"`{one.config.model}`: {one.reason_unavailable(task)}" for one in demos if one not in able
                        )
                        gradio.Markdown(f"*Not available.* {reasons}")
                    if able:
                        chosen = [one for one in examples if one.task == task][:NUM_EXAMPLES]
                        _build_tab(gradio, able, task, chosen, shows_names=len(demos) > 1)
    return page


def _build_tab(
    gradio: Any, demos: Sequence[Demo], task: str, examples: Sequence[Prompt], *, shows_names: bool
) -> None:
    """Builds a tab with inputs on the left and the denoising of each checkpoint that has the task on the right."""
    has_image = task in IMAGE_OUTPUT_TASKS
    config = demos[0].config
    sampling = config.image if has_image else config.text
    _, label, placeholder = TASKS[task]
    outputs: list[Any] = []
    with gradio.Row():
        with gradio.Column():
            input_image = gradio.Image(
                type="filepath", label="Image", visible=task == "mmu", height=256, sources=["upload", "clipboard"]
            )
            prompt = gradio.Textbox(label=label, placeholder=placeholder, elem_id=f"{task}-prompt")
            if examples and task == "mmu":
                gradio.Examples([[one.images[0], one.text] for one in examples], [input_image, prompt])
            elif examples:
                gradio.Examples([[one.text] for one in examples], [prompt])
            samples = gradio.Slider(1, MAX_SAMPLES, 1, step=1, label="Samples", elem_id=f"{task}-samples")
            with gradio.Accordion("Sampling", open=False):
                steps = gradio.Number(
                    sampling.num_denoising_steps,
                    label="Steps",
                    precision=0,
                    minimum=1,
                    maximum=min(one.most_steps(task) for one in demos),
                )
                temperature = gradio.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature")
                guidance = gradio.Slider(
                    0, 10, config.image.guidance_scale, step=0.1, label="Guidance", visible=has_image
                )
                threshold = gradio.Slider(
                    0,
                    1,
                    config.text.threshold,
                    step=0.01,
                    label="Confidence threshold of text (0: fixed steps)",
                    visible=task != "t2i",
                )
                seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
                is_new = gradio.Checkbox(True, label="New seed each time", elem_id=f"{task}-new-seed")
            button = gradio.Button(TASKS[task][0], variant="primary", elem_id=f"{task}-run")
        for number, one in enumerate(demos):
            with gradio.Column():
                if shows_names:
                    gradio.Markdown(f"`{one.config.model}`")
                outputs += _build_outputs(gradio, task, suffix=f"-{number + 1}" if number else "")
    with gradio.Row():
        step = gradio.Slider(0, 1, 0, step=1, label="Step", interactive=True, elem_id=f"{task}-step", scale=4)
        again = gradio.Button("Play", elem_id=f"{task}-play", scale=1)
    state = gradio.State([])

    def generate(*values: Any) -> Iterator[tuple[Any, ...]]:
        file, text, num_steps, heat, scale, limit, given, is_fresh, number = values
        used = secrets.randbelow(2**32 - MAX_SAMPLES) if is_fresh else int(given or 0)
        try:
            shown = [
                one.run(
                    task, text, file, int(num_steps or 0), heat, scale, used, threshold=limit, num_samples=int(number)
                )
                for one in demos
            ]
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        for now in play(shown):
            yield (*now, shown, used)

    def play(shown: Sequence[Sequence[Shown]]) -> Iterator[tuple[Any, ...]]:
        length = max(map(len, shown), default=0)
        for number in range(length):
            time.sleep(SECONDS_PER_STEP if number else 0)
            yield (*at(number, shown), gradio.Slider(0, length - 1, number, step=1, label="Step"))

    def at(number: float, shown: Sequence[Sequence[Shown]]) -> tuple[Any, ...]:
        if not shown:
            return (None,) * len(outputs)
        now = [one[min(int(number), len(one) - 1)] for one in shown]
        return tuple(part for one in now for part in (one.thoughts, one.words, one.image))

    inputs = [input_image, prompt, steps, temperature, guidance, threshold, seed, is_new, samples]
    for event in (button.click, prompt.submit):
        event(generate, inputs, [*outputs, step, state, seed], api_name=False)
    again.click(play, [state], [*outputs, step], api_name=False, show_progress="hidden")
    # Not `release`, which the keyboard and the number beside the slider do not cause.
    step.input(at, [step, state], outputs, api_name=False, show_progress="hidden", trigger_mode="always_last")


def _build_outputs(gradio: Any, task: str, suffix: str) -> list[Any]:
    """Builds the places of the thoughts, the answer and the image of one checkpoint."""
    has_image = task in IMAGE_OUTPUT_TASKS
    colours = {"masked": "#d0d0d0", "new": "#ffb347"}
    return [
        gradio.HighlightedText(
            label="Thoughts",
            color_map=colours,
            visible=task != "t2i",
            elem_id=f"{task}-thoughts{suffix}",
            show_legend=True,
        ),
        gradio.HighlightedText(
            label="Answer", color_map=colours, visible=not has_image, elem_id=f"{task}-words{suffix}"
        ),
        gradio.Image(
            label="Generated image",
            visible=has_image,
            elem_id=f"{task}-image{suffix}",
            height=320,
            buttons=["download", "fullscreen"],
        ),
    ]


def launch(page: Any, config: DemoConfig, **options: Any) -> tuple[Any, str, str | None]:
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
        ConfigError: A checkpoint cannot be loaded, Gradio is not installed, or the port is not free.
        DataError: The prompt file of the examples cannot be read.
    """
    examples = load_prompts(config.examples) if config.examples else []
    other = Demo(replace(config, model=config.compare_model)) if config.compare_model else None
    page = build_page(Demo(config), other, examples)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is there
    if config.host not in LOOPBACK:
        logger.warning("listening on %s: everybody who reaches this machine can use the model", config.host)
    sys.stdout.write(f"open http://{config.host}:{config.port} (Ctrl-C ends it)\n")
    sys.stdout.flush()  # in a file or a pipe it would stay in the buffer as long as the page is served
    try:
        launch(page, config, server_port=config.port)
    except OSError as error:
        raise ConfigError(f"port {config.port} cannot be used ({error}); choose another with --port") from error
