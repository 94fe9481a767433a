"""A policy: a checkpoint with its tokenizers that generates text and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Int
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo import ConfigError
from unigrpo.config import (
    IMAGE_OUTPUT_TASKS,
    TASKS,
    DataConfig,
    Fit,
    ImageSamplingConfig,
    RunConfig,
    TextSamplingConfig,
    check_image_steps,
    check_text_steps,
)
from unigrpo.config.checks import choice, positive, valid_seed
from unigrpo.config.generate import Dtype
from unigrpo.models.checkpoint_io import load_policy, save_policy
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling_defaults import SamplingDefaults
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.models.weight_files import local_folder
from unigrpo.records import Prompt
from unigrpo.training.batching import micro_batches
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.workers.generation import TaskSampler
from unigrpo.workers.policy import PolicyWorker


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample that the policy generated for a prompt."""

    prompt: Prompt
    """The prompt."""
    seed: int
    """Seed of the sample's random numbers."""
    text: str
    """The generated text, or the thoughts before an image; empty for `t2i`."""
    image: Image | None
    """The generated image, RGB; None for `text` and `mmu`."""
    token_ids: Int[Tensor, " L"]
    """Prompt and response as token ids."""
    commit_step: Int[Tensor, " L"]
    """Denoising step at which each token was fixed; -1 outside the response. The steps of an image are numbered after
    those of its thoughts."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A masked-diffusion language model with its tokenizer, vocabulary and image tokenizer."""

    model: MMadaModelLM
    """The transformer, a module of torch and a model of transformers."""
    tokenizer: PreTrainedTokenizerBase
    """Tokenizer of text."""
    vocabulary: Vocabulary
    """Ids of special tokens and of image codes."""
    image_tokenizer: ImageTokenizer | None
    """Encoder and decoder of images; None if the model has text only, or if there is no image tokenizer."""
    sampling: SamplingDefaults | None = None
    """Sampling settings of the run that exported the policy (``sampling.json``); None without this file."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        image_tokenizer: str = "",
        device: str = "auto",
        dtype: Dtype = "auto",
        attn_implementation: str = "sdpa",
        compile: bool = False,
    ) -> Policy:
        """Loads a model and its tokenizers. No code of the checkpoint is run.

        Args:
            name: Folder or Hub name of a checkpoint in the published MMaDA or LLaDA format.
            image_tokenizer: Folder or Hub name of the image tokenizer, such as showlab/magvitv2. If empty, it is the
                folder `image_tokenizer` of the model.
            device: `auto` uses the GPU if there is one; other values are cpu, cuda, cuda:1 ...
            dtype: Type of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
            attn_implementation: `sdpa`, `varlen`, `eager` or `flash_attention_2`.
            compile: Whether to fuse norms, rotary positions and gates with torch.compile.

        Raises:
            CheckpointError: A part of the checkpoint is missing or broken.
            ConfigError: There is no such device.
        """
        where = torch_device(device)
        choice("dtype", dtype, get_args(Dtype))
        kind = {"auto": "bfloat16" if where.type == "cuda" else "float32"}.get(dtype, dtype)
        tokenizer = load_tokenizer(str(name), "model")
        model = load_policy(name, getattr(torch, kind), attn_implementation, compile=compile)
        model.to(where)  # type: ignore[arg-type]
        codes = find_image_tokenizer(image_tokenizer, str(name), where)
        vocabulary = Vocabulary.from_pretrained_parts(model.config, tokenizer)
        sampling = SamplingDefaults.read(local_folder(name))
        return cls(model=model, tokenizer=tokenizer, vocabulary=vocabulary, image_tokenizer=codes, sampling=sampling)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that :meth:`from_pretrained` and transformers read.

        Args:
            folder: The folder, which may exist; weights in it are replaced.
        """
        save_policy(self.model, self.tokenizer, folder)
        if self.image_tokenizer is not None:
            self.image_tokenizer.save_pretrained(Path(folder) / "image_tokenizer")
        if self.sampling is not None:
            self.sampling.write(folder)

    def task_sampler(self, data: DataConfig, *, resolution: int, fit: Fit) -> TaskSampler:
        """Returns the sampler, which holds all that generation needs except weights and sampling settings.

        Args:
            data: Template and instruction of the prompts.
            resolution: Height and width of images, in pixels.
            fit: How an input image becomes square.
        """
        own = self.sampling.max_text_tokens if self.sampling else 0
        return TaskSampler(
            tokenizer=self.tokenizer,
            vocabulary=self.vocabulary,
            data=data,
            image_tokenizer=self.image_tokenizer,
            resolution=resolution,
            fit=fit,
            max_text_tokens=own or self.model.config.max_text_tokens,
        )

    @torch.no_grad()
    def sample(
        self,
        prompts: str | Prompt | Sequence[str | Prompt],
        *,
        task: str = "text",
        images: Sequence[str | Path] = (),
        text: TextSamplingConfig | None = None,
        image: ImageSamplingConfig | None = None,
        resolution: int | None = None,
        fit: Fit | None = None,
        data: DataConfig | None = None,
        seed: int = 0,
        batch_size: int = 8,
    ) -> list[Sample]:
        """Generates one sample for each prompt.

        Settings that are None are those of :attr:`sampling`, or the defaults below if :attr:`sampling` is None.

        Args:
            prompts: One or more texts or prompts. Repeat a prompt to get several samples.
            task: `text` (text reasoning), `mmu` (image understanding), `t2i` (text to image) or `r2i` (thinking, then
                text to image).
            images: Files of the input images, one for each prompt; only for `mmu`.
            text: Sampling settings of text; by default those of :class:`TextSamplingConfig`.
            image: Sampling settings of images; by default those of :class:`ImageSamplingConfig`. The resolution sets
                the number of image tokens.
            resolution: Height and width of images, in pixels; by default 512.
            fit: How an input image becomes square: `crop` keeps the middle, `stretch` resizes both sides, `pad` adds
                white; by default `crop`.
            data: Template and instruction of the prompts; by default those of :class:`DataConfig`.
            seed: Seed of the first sample; sample number i uses seed + i. The samples do not depend on the batch size.
            batch_size: Number of samples that are generated together.

        Returns:
            The samples in the order of the prompts.

        Raises:
            ConfigError: A setting is wrong, or the model cannot do the task.
        """
        asked = _prompts(prompts, task, images)
        own = self.sampling or SamplingDefaults()
        text, image = text or own.text_sampling(), image or own.image_sampling()
        sampler = self.task_sampler(
            data or own.prompting(),
            resolution=own.resolution if resolution is None else resolution,
            fit=own.fit if fit is None else fit,
        )
        self._check_task(task)
        valid_seed("seed", seed)
        positive("batch_size", batch_size)
        if task != "t2i":
            check_text_steps("text.", text)
        if task in IMAGE_OUTPUT_TASKS:
            check_image_steps("image.", image, sampler.num_image_tokens)
            image = replace(image, num_image_tokens=sampler.num_image_tokens)
        was_training = self.model.training
        self.model.eval()
        samples: list[Sample] = []
        for batch in micro_batches(list(enumerate(asked, start=seed)), batch_size):
            generators = [torch.Generator(self.model.device).manual_seed(number) for number, _ in batch]
            generated = sampler.generate(self.model, [prompt for _, prompt in batch], text, image, generators)
            samples += [
                Sample(
                    prompt=prompt,
                    seed=number,
                    text=sampler.completion(one),
                    image=pixels,
                    token_ids=one.token_ids,
                    commit_step=one.commit_step,
                )
                for (number, prompt), one, pixels in zip(batch, generated, sampler.images(generated), strict=True)
            ]
        self.model.train(was_training)
        return samples

    def worker(self, config: RunConfig) -> PolicyWorker:
        """Returns this policy with an AdamW optimizer: it generates rollouts, scores them, and makes inner updates.

        The weights are trained in the type in which they were loaded, so load them with ``dtype="float32"``.

        Args:
            config: The run; with ``ds.lora.rank`` the model gets adapters, and only these are trained.

        Raises:
            ConfigError: The model has adapters already.
        """
        if getattr(self.model, "peft_config", None):
            raise ConfigError("the policy has LoRA adapters already; load it again for another worker")
        if config.ds.lora.rank:
            add_lora(self.model, config.ds.lora)
        if config.actor.gradient_checkpointing_enable:
            self.model.gradient_checkpointing_enable()
        engine = LocalEngine(self.model, config.actor, config.num_optimizer_steps)
        return PolicyWorker(config, engine, self.tokenizer, self.image_tokenizer)

    def _check_task(self, task: str) -> None:
        if task == "text":
            return
        if self.vocabulary.codebook_size == 0:
            raise ConfigError(f"task is {task!r}, but the model has text only (codebook_size is 0)")
        if self.image_tokenizer is None:
            raise ConfigError(
                f"task {task!r} needs an image tokenizer; name one in Policy.from_pretrained(..., image_tokenizer=...)"
            )


def torch_device(name: str) -> torch.device:
    """Returns the device of a name.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); use auto") from error
    return device


def _prompts(prompts: str | Prompt | Sequence[str | Prompt], task: str, images: Sequence[str | Path]) -> list[Prompt]:
    choice("task", task, TASKS)
    given = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
    asked = [
        replace(one, task=task) if isinstance(one, Prompt) else Prompt(id=f"prompt {i}", text=one, task=task)
        for i, one in enumerate(given)
    ]
    if images:
        if len(images) != len(asked):
            raise ConfigError(f"images has {len(images)} files for {len(asked)} prompts; give one for each prompt")
        asked = [replace(one, images=(str(file),)) for one, file in zip(asked, images, strict=True)]
    for one in asked:
        if len(one.images) != (task == "mmu"):
            raise ConfigError(
                f"{one.id}: task {task!r} takes {int(task == 'mmu')} image per prompt, found {len(one.images)}"
            )
    return asked
