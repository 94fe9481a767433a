"""A language or vision-language model as a judge, over an OpenAI-compatible API such as that of vLLM."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from rewards.base import Reward, RewardInput
from rewards.http_client import Client, finite_number, png_base64

TEMPLATE = (
    "Rate how well the answer fulfils the request, from {low:g} (not at all) to {high:g} (fully).\n\n"
    'Request:\n{prompt}\n\nAnswer:\n{completion}\n\nReply with JSON: {{"score": number}}.'
)
"""Request to the judge. Placeholders: {prompt} {completion} {label} {low} {high}."""
_OBJECT = re.compile(r"\{[^{}]{0,2000}\}")


class Judge(Reward):
    """The judge's score, scaled to [0, 1]. A judgement that cannot be read is missing, never 0."""

    name = "judge"
    range = (0.0, 1.0)
    unit = "the judge's score over its scale"

    def __init__(
        self,
        model: str,
        url: str = "http://127.0.0.1:8000/v1",
        template: str = TEMPLATE,
        low: float = 0.0,
        high: float = 10.0,
        concurrency: int = 16,
        requests_per_second: float = 0.0,
        attempts: int = 4,
        timeout_seconds: float = 60.0,
        max_tokens: int = 256,
        api_key_env: str = "",
        is_structured: bool = True,
        score_pattern: str = "",
    ) -> None:
        """Checks the settings.

        Args:
            model: Name of the judge on the server.
            url: Address of the API, up to `/v1`.
            template: Request to the judge, see :data:`TEMPLATE`. Images are sent with it.
            low: Lowest score of the judge's scale.
            high: Highest score.
            concurrency: Largest number of requests at a time.
            requests_per_second: Largest number of requests per second; 0 sets no limit.
            attempts: Number of attempts at each request, with growing pauses.
            timeout_seconds: Time limit of one whole attempt.
            max_tokens: Largest number of tokens of a judgement.
            api_key_env: Name of the environment variable with the key. If empty, no key is sent.
            is_structured: Whether to ask the server to enforce the JSON schema (`response_format`).
            score_pattern: Regular expression whose first group is the score, for judges that answer in prose, such as
                UnifiedReward (`Final Score: 4.5`). The last match is used. If empty, JSON is read.
        """
        if not low < high:
            raise ValueError(f"judge: low {low} must be below high {high}")
        try:
            template.format(prompt="", completion="", label="", low=low, high=high)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"judge: template cannot be filled in ({error!r}); write literal braces twice") from error
        try:
            self._pattern = re.compile(score_pattern) if score_pattern else None
        except re.error as error:
            raise ValueError(f"judge: score_pattern {score_pattern!r} is no regular expression: {error}") from error
        if self._pattern is not None and self._pattern.groups < 1:
            raise ValueError(f"judge: score_pattern {score_pattern!r} has no group; put the score into parentheses")
        key = os.environ.get(api_key_env, "") if api_key_env else ""
        if api_key_env and not key:
            raise ValueError(f"judge: the environment variable {api_key_env} (api_key_env) is not set")
        self._client = Client(
            [f"{url.rstrip('/')}/chat/completions"],
            api_key=key,
            concurrency=concurrency,
            requests_per_second=requests_per_second,
            attempts=attempts,
            timeout_seconds=timeout_seconds,
        )
        self._url, self._model, self._template = url.rstrip("/"), model, template
        self._low, self._high = low, high
        self._max_tokens, self._is_structured = max_tokens, is_structured and self._pattern is None

    def load(self) -> None:
        """Asks the server for its models.

        Raises:
            ServerDown: The server does not answer, or does not have the judge.
        """

        def problem(answer: Any) -> str:
            models = answer.get("data") if isinstance(answer, dict) else None
            found = [m.get("id") for m in models if isinstance(m, dict)] if isinstance(models, list) else []
            return "" if self._model in found else f"no model {self._model!r}; the server has {found}"

        self._client.check(f"{self._url}/models", problem)

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        answers = self._client.post_all([self._body(item) for item in inputs])
        values = [None if answer is None else self._score(answer) for answer in answers]
        unread = sum(value is None and answer is not None for value, answer in zip(values, answers, strict=True))
        self._client.counts["parse_failures"] += unread
        return values

    def logs(self) -> dict[str, float]:
        return self._client.rates()

    def _body(self, item: RewardInput) -> dict[str, Any]:
        text = self._template.format(
            prompt=item.prompt, completion=item.completion, label=item.label or "", low=self._low, high=self._high
        )
        images = [*item.input_images, *([item.image] if item.image is not None else [])]
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for image in images:
            url = f"data:image/png;base64,{png_base64(image)}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content if images else text}],
            "temperature": 0.0,
            "max_tokens": self._max_tokens,
        }
        if self._is_structured:
            schema = {
                "type": "object",
                "properties": {"score": {"type": "number"}},
                "required": ["score"],
                "additionalProperties": False,
            }
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "score", "schema": schema}}
        return body

    def _score(self, answer: Any) -> float | None:
        """Returns the last score of a judgement, scaled; None if there is none on the scale."""
        try:
            text = str(answer["choices"][0]["message"]["content"])[-20_000:]
        except (KeyError, IndexError, TypeError, RecursionError):
            return None
        score = _score_in_json(text) if self._pattern is None else _score_in_prose(text, self._pattern)
        if score is None or not self._low <= score <= self._high:
            return None
        return (score - self._low) / (self._high - self._low)


def _score_in_json(text: str) -> float | None:
    """Returns the score in the last JSON object that has one."""
    for found in reversed(_OBJECT.findall(text)):
        try:
            return finite_number(json.loads(found)["score"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def _score_in_prose(text: str, pattern: re.Pattern[str]) -> float | None:
    """Returns the score in the last match of a pattern."""
    matches = list(pattern.finditer(text))
    try:
        return finite_number(float(matches[-1].group(1))) if matches else None
    except (ValueError, TypeError):  # the group is no number, or took no part in the match
        return None
