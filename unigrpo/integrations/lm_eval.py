"""A model for lm-evaluation-harness (``pip install 'unigrpo[eval]'``).

``python -m unigrpo.integrations.lm_eval run --model unigrpo --model_args pretrained=FOLDER --tasks gsm8k`` runs the
command ``lm_eval`` with this model. In Python, give ``UniGRPOLM(pretrained=...)`` to ``lm_eval.simple_evaluate``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]  # optional
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from unigrpo.config import TextSamplingConfig
from unigrpo.config.checks import choice, positive
from unigrpo.config.generate import Dtype
from unigrpo.data.chat import render
from unigrpo.data.prompting import decode_completion
from unigrpo.evaluation.log_likelihood import bound_log_likelihood, trace_log_likelihood
from unigrpo.library.policy import Policy
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.tokenizer_panics import panics_named
from unigrpo.rng import keyed_generator
from unigrpo.training.batching import micro_batches

Likelihood = Literal["bound", "trace"]


@register_model("unigrpo")
class UniGRPOLM(TemplateLM):
    """A masked-diffusion policy. `generate_until` uses UniGRPO's sampler, and `loglikelihood` uses a bound or a
    trace."""

    def __init__(
        self,
        pretrained: str,
        *,
        likelihood: Likelihood = "bound",
        num_samples: int = 128,
        tokens_per_step: int = 1,
        max_new_tokens: int = 256,
        num_denoising_steps: int = 256,
        block_length: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: Dtype = "auto",
    ) -> None:
        """Loads the policy.

        Args:
            pretrained: Folder or Hub name of a checkpoint.
            likelihood: `bound` is the Monte-Carlo bound of LLaDA; `trace` reveals the tokens in the order in
                which the model is most confident. It is deterministic and also tells whether greedy sampling gives the
                continuation.
            num_samples: Number of masked copies of the bound.
            tokens_per_step: Number of tokens that a step of the trace reveals.
            max_new_tokens: Length of generated responses, which replaces that of the task.
            num_denoising_steps: Number of forward passes of a response.
            block_length: Length of the blocks that are generated from left to right.
            temperature: Temperature of generation where a task does not set one; 0 takes the most likely tokens.
            seed: Seed of all random numbers.
            batch_size: Number of rows of one forward pass; `auto` is 8.
            max_batch_size: Ignored; the harness passes it.
            device: `cpu`, `cuda` ...; None uses the GPU if there is one.
            dtype: Type of the weights.

        Raises:
            CheckpointError: The policy cannot be loaded.
            ConfigError: A setting is wrong.
        """
        super().__init__()
        choice("likelihood", likelihood, get_args(Likelihood))
        positive("num_samples", num_samples)
        positive("tokens_per_step", tokens_per_step)
        self.policy = Policy.from_pretrained(pretrained, device=device or "auto", dtype=dtype)
        self.likelihood, self.num_samples, self.tokens_per_step = likelihood, num_samples, tokens_per_step
        self.seed = seed
        self.batch_size = 8 if isinstance(batch_size, str) and not batch_size.isdigit() else int(batch_size)
        self.text = TextSamplingConfig(
            max_new_tokens=max_new_tokens,
            num_denoising_steps=num_denoising_steps,
            block_length=block_length,
            temperature=temperature,
        )
        self._name = str(pretrained)

    @property
    def eot_token_id(self) -> int:
        """Id of end-of-text."""
        return self.policy.vocabulary.end_of_text_id

    @property
    def prefix_token_id(self) -> int:
        """Id of the token before every text, which is begin-of-text."""
        return self.policy.vocabulary.begin_of_text_id

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, which the harness uses for its cache of requests."""
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Returns the chat template of the tokenizer, which the harness records with a run."""
        return str(self.policy.tokenizer.chat_template or "")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a chat as text in the tokenizer's template."""
        return render(self.policy.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Returns a text as token ids, with begin-of-text in front."""
        with panics_named(self.policy.tokenizer):
            ids: list[int] = self.policy.tokenizer(string, add_special_tokens=False)["input_ids"]
        return ids if ids[:1] == [self.prefix_token_id] else [self.prefix_token_id, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        bar = tqdm(requests, disable=disable_tqdm, desc="log-likelihoods")
        return [self._log_likelihood(context, response) for _, context, response in bar]

    def _log_likelihood(self, context: list[int], response: list[int]) -> tuple[float, bool]:
        """Returns the log-likelihood in nats, and whether greedy sampling gives the response. The bound cannot tell
        the latter."""
        model, mask_id = self.policy.model, self.policy.vocabulary.mask_id
        prompt, tokens = torch.tensor(context, dtype=torch.long), torch.tensor(response, dtype=torch.long)
        if not response:
            return 0.0, True
        if self.likelihood == "trace":
            found = trace_log_likelihood(model, prompt, tokens, mask_id, tokens_per_step=self.tokens_per_step)
            return found.nats, found.is_greedy
        generator = torch.Generator().manual_seed(self.seed)  # the choices of a question get the same numbers of masks
        nats = bound_log_likelihood(
            model, prompt, tokens, mask_id, num_samples=self.num_samples, batch_size=self.batch_size,
            generator=generator,
        )  # fmt: skip
        return nats, False

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-likelihood of each text as a whole."""
        texts = [request.args[0] for request in requests]
        rows = [(None, [self.prefix_token_id], self.tok_encode(text)[1:]) for text in texts]
        return [nats for nats, _ in self._loglikelihood_tokens(rows, disable_tqdm=disable_tqdm)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns a response to each context, cut at the first of its stop strings."""
        policy, results = self.policy, [""] * len(requests)
        by_temperature: dict[float, list[int]] = {}
        for i, request in enumerate(requests):
            settings = request.args[1]
            is_sampled = settings.get("do_sample", "temperature" in settings)
            temperature = (
                float(settings.get("temperature", self.text.temperature)) if is_sampled else self.text.temperature
            )
            by_temperature.setdefault(temperature, []).append(i)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="responses") as bar:
            for temperature, places in by_temperature.items():
                for part in micro_batches(places, self.batch_size):
                    prompts = [torch.tensor(self.tok_encode(requests[i].args[0])) for i in part]
                    generators = [keyed_generator(self.seed, i, device=policy.model.device) for i in part]
                    settings = replace(self.text, temperature=temperature)
                    samples = sample_text(policy.model, prompts, settings, policy.vocabulary, generators=generators)
                    for i, sample in zip(part, samples, strict=True):
                        text = decode_completion(
                            sample.token_ids, sample.response_mask, policy.tokenizer, policy.vocabulary
                        )
                        results[i] = until(text, requests[i].args[1].get("until", ()))
                    bar.update(len(part))
        return results


def until(text: str, stops: str | Sequence[str]) -> str:
    """Returns a text up to the first of its stop strings.

    >>> until("Yes.\\n\\nQuestion: why?", ["\\n\\n", "Question:"])
    'Yes.'
    """
    ends = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


if __name__ == "__main__":
    cli_evaluate()
