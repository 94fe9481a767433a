"""Show the first prompts of a data set as the policy will see them, and how its columns are used."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from unigrpo.config import TASKS, DataConfig, Fit, PromptFileConfig, PromptTemplate
from unigrpo.config.checks import positive, within

if TYPE_CHECKING:
    from unigrpo.records import Prompt

HELP = """\
The log says how many rows the data set has, which columns are the question, the gold answer and the image, and which
rows cannot be used. The options are the settings of a file in data.prompt_dataset; docs/data.md has the settings for
many public data sets."""


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo data``. Returns the exit status."""
    given = _parser().parse_args(list(arguments))
    from unigrpo.data.bad_samples import BadRows  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.data.prompts import load_prompts  # noqa: PLC0415

    file = PromptFileConfig(
        path=given.path, task=given.task, prompt_key=given.prompt_key, label_key=given.label_key,
        image_key=given.image_key, image_folder=given.image_folder, instruction=given.instruction, split=given.split,
    )  # fmt: skip
    within("--rows", given.rows, 0, math.inf)
    positive("--resolution", given.resolution)
    bad = BadRows(given.max_bad_fraction)
    prompts = load_prompts((file,), max_samples=given.rows, bad=bad)
    show = _renderer(given.model, given.prompt_template)
    for prompt in prompts:
        sys.stdout.write(_described(prompt, show(prompt)))
        if given.images:
            for name in _write_images(prompt, Path(given.images), given.resolution, given.fit):
                sys.stdout.write(f"image:  {name}\n")
        sys.stdout.write("\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unigrpo data",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("path", help="file, folder or Hugging Face data set, as in data.prompt_dataset")
    parser.add_argument("--task", choices=("", *TASKS), default="", help="task of the rows without a column task")
    parser.add_argument("--prompt_key", default="", help="column of the question")
    parser.add_argument("--label_key", default="", help="column of the gold answer")
    parser.add_argument("--image_key", default="", help="column of the image")
    parser.add_argument("--image_folder", default="", help="folder to which image paths are relative")
    parser.add_argument("--instruction", default=None, help="text that is put before every question")
    parser.add_argument("--split", default="train", help="split to read, if the path is a folder or a data set")
    parser.add_argument("--rows", type=int, default=5, help="number of prompts to show; 0 shows all")
    parser.add_argument(
        "--max_bad_fraction", type=float, default=0.01, help="largest allowed fraction of unusable rows"
    )
    parser.add_argument("--model", default="", help="folder or Hub name of a model whose chat template is applied")
    parser.add_argument(
        "--prompt_template", choices=get_args(PromptTemplate), default="chat", help="template of data.prompt_template"
    )
    parser.add_argument(
        "--images", default="", metavar="FOLDER", help="folder to which the images are written as squares"
    )
    parser.add_argument("--resolution", type=int, default=512, help="height and width of these images in pixels")
    parser.add_argument("--fit", choices=get_args(Fit), default="crop", help="how these images become square")
    return parser


def _renderer(model: str, template: PromptTemplate) -> Callable[[Prompt], str]:
    """Returns a function that renders a prompt: with the template of a model, or without a model as plain text."""
    if not model:
        return lambda prompt: (prompt.instruction or "") + prompt.text
    from unigrpo.data.prompting import check_prompt_text, encode_prompt  # noqa: PLC0415
    from unigrpo.models.checkpoint_io import load_config  # noqa: PLC0415
    from unigrpo.models.loading import load_tokenizer  # noqa: PLC0415
    from unigrpo.models.vocabulary import Vocabulary  # noqa: PLC0415

    tokenizer = load_tokenizer(model, "model")
    vocabulary = Vocabulary.from_pretrained_parts(load_config(model), tokenizer)
    data = DataConfig(prompt_template=template)

    def render(prompt: Prompt) -> str:
        import torch  # noqa: PLC0415

        check_prompt_text(prompt, tokenizer)
        codes = torch.zeros(0, dtype=torch.long) if prompt.task == "mmu" else None
        return str(tokenizer.decode(encode_prompt(prompt, tokenizer, vocabulary, data, codes)))

    return render


def _described(prompt: Prompt, shown: str) -> str:
    lines = [prompt.id, f"task:   {prompt.task}"]
    if len(prompt.messages) > 1:
        lines.append(f"turns:  {', '.join(message['role'] for message in prompt.messages)}")
    lines += [f"prompt: {shown}", f"gold:   {prompt.label if prompt.label is not None else '(none)'}"]
    lines += [f"source: {name}" for name in prompt.images]
    return "\n".join(lines) + "\n"


def _write_images(prompt: Prompt, folder: Path, resolution: int, fit: Fit) -> list[Path]:
    """Writes the images of a prompt as the image tokenizer gets them. Returns the files."""
    from PIL import Image  # noqa: PLC0415

    from unigrpo.data.images import read_image, square_pixels  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name in prompt.images:
        pixels = square_pixels(read_image(name), resolution, fit)
        values = ((pixels + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy()
        number = len(list(folder.glob("*.png")))
        files.append(folder / f"{number:05}.png")
        Image.fromarray(values).save(files[-1])
    return files
