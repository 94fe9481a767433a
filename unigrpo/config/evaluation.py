"""Evaluation protocols of papers: lengths, steps, blocks, guidance, template, instruction and grader."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unigrpo.config.data import PromptTemplate
from unigrpo.config.rollout import ImageSamplingConfig, TextSamplingConfig

THINK_FIRST = (
    "You should first think about the reasoning process in the mind and then provide the user with the answer. The "
    "reasoning process is enclosed within <think> </think> tags, i.e. <think> reasoning process here </think> answer "
    "here\n"
)
"""Instruction with which MMaDA-8B-MixCoT was trained to answer (training/data.py of its repository)."""
THINK_BEFORE_IMAGE = (
    "You should first think out a more detailed version of the description and then provide the user with the image. "
    "The detailed description is enclosed within <think> </think> tags, i.e. <think> detailed description here "
    "</think> image here\n"
)
"""Instruction with which it was trained to think and generate an image (parquet/my_dataset.py of its repository)."""
D1_REQUEST = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
    "\\boxed{}. \nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n"
    "\\boxed{...}\n</answer>\n\n"
)
"""Instruction of d1's evaluation (eval/gsm8k.py of its repository)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """All settings that determine what a model is asked, how it answers, and how the answer is graded."""

    source: str
    """Where the protocol is published."""
    text: TextSamplingConfig
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    prompt_template: PromptTemplate | None = None
    """Template of all tasks; None uses that of the run."""
    instructions: dict[str, str] | None = None
    """Instruction of each task, for files without their own; a task without an entry has no instruction. None uses
    those of the run."""
    response_start: str = ""
    """Text that is given to the model as the start of every answer."""


Preset = Literal["training", "mmada_paper", "llada", "d1"]
PROTOCOLS: dict[str, EvaluationProtocol] = {
    "mmada_paper": EvaluationProtocol(
        source="arXiv:2505.15809v2, section 5: 1024 tokens, 512 steps, blocks of 64; images in 50 steps, guidance 3.5",
        text=TextSamplingConfig(max_new_tokens=1024, num_denoising_steps=512, block_length=64),
        image=ImageSamplingConfig(num_denoising_steps=50, guidance_scale=3.5, remasking_anneal="compounding"),
        prompt_template="chat_one_newline",
        instructions={"text": THINK_FIRST, "mmu": THINK_FIRST, "r2i": THINK_BEFORE_IMAGE},
    ),
    "llada": EvaluationProtocol(
        source="EVAL.md of LLaDA, GSM8K with blocks: 256 tokens, 256 steps, blocks of 8; four examples are left out",
        text=TextSamplingConfig(max_new_tokens=256, num_denoising_steps=256, block_length=8),
        prompt_template="chat_two_newlines",
        instructions={"text": "Question: {prompt}\nLet's think step by step\nAnswer:"},
    ),
    "d1": EvaluationProtocol(
        source="eval/ of d1 (arXiv:2504.12216): 256 tokens, 128 steps, blocks of 32, answers start with <reasoning>",
        text=TextSamplingConfig(max_new_tokens=256, num_denoising_steps=128, block_length=32),
        prompt_template="chat_two_newlines",
        instructions={"text": D1_REQUEST},
        response_start="<reasoning>",
    ),
}
"""Protocols by the names of ``eval.preset``."""
