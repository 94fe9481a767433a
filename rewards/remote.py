"""A reward on another machine or in another environment, by JSON over HTTP: our format, or that of OpenRLHF's
servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rewards.base import Reward, RewardInput
from rewards.http_client import Client, finite_number, png_base64, without_secrets


class Remote(Reward):
    """Posts batches of samples and gets their rewards.

    `unigrpo`: ``{"prompts": [...], "completions": [...], "labels": [...], "tasks": [...], "metadata": [{...}],
    "images": [base64 PNG or null], "input_images": [[base64 PNG]]}`` is answered by ``{"rewards": [number or null]}``.
    `openrlhf`: ``{"query": [...], "prompts": [...], "labels": [...]}`` is answered likewise; it has no images.
    """

    name = "remote"
    range = (float("-inf"), float("inf"))
    unit = "the server's own"

    def __init__(
        self,
        url: str,
        format: Literal["unigrpo", "openrlhf"] = "unigrpo",
        batch_size: int = 16,
        concurrency: int = 4,
        attempts: int = 4,
        timeout_seconds: float = 60.0,
        health_url: str = "",
    ) -> None:
        """Checks the settings.

        Args:
            url: Address to post to; several, joined by commas, are used in turn.
            format: Format of the JSON.
            batch_size: Number of samples of one request.
            concurrency: Largest number of requests at a time.
            attempts: Number of attempts at each request.
            timeout_seconds: Time limit of one whole attempt.
            health_url: Address that answers with any JSON when the server is ready; checked before the training. Empty
                posts an empty batch instead.
        """
        if format not in ("unigrpo", "openrlhf"):
            raise ValueError(f"remote: no format {format!r}; choose unigrpo or openrlhf")
        if batch_size < 1:
            raise ValueError(f"remote: batch_size is {batch_size}; it must be above 0")
        urls = [one.strip() for one in url.split(",")]
        self._client = Client(urls, concurrency=concurrency, attempts=attempts, timeout_seconds=timeout_seconds)
        self._urls, self._health_url = ",".join(map(without_secrets, urls)), health_url
        self._format, self._batch_size = format, batch_size

    def load(self) -> None:
        """Connects to the server.

        Raises:
            ServerDown: It does not answer as expected.
        """
        if self._health_url:
            self._client.check(self._health_url, lambda _: "")
        elif self._values(self._client.post_all([self._body([])])[0], 0) is None:
            raise ValueError(f'remote: {self._urls} does not answer an empty batch with {{"rewards": []}}; is it up?')

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        batches = [inputs[i : i + self._batch_size] for i in range(0, len(inputs), self._batch_size)]
        answers = self._client.post_all([self._body(batch) for batch in batches])
        values: list[float | None] = []
        for batch, answer in zip(batches, answers, strict=True):
            values += self._values(answer, len(batch)) or [None] * len(batch)
        return values

    def logs(self) -> dict[str, float]:
        return self._client.rates()

    def _body(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        prompts, labels = [i.prompt for i in inputs], [i.label for i in inputs]
        if self._format == "openrlhf":
            return {"query": [i.prompt + i.completion for i in inputs], "prompts": prompts, "labels": labels}
        return {
            "prompts": prompts,
            "completions": [i.completion for i in inputs],
            "labels": labels,
            "tasks": [i.task for i in inputs],
            "metadata": [dict(i.metadata) for i in inputs],
            "images": [None if i.image is None else png_base64(i.image) for i in inputs],
            "input_images": [[png_base64(picture) for picture in i.input_images] for i in inputs],
        }

    def _values(self, answer: Any, count: int) -> list[float | None] | None:
        """Returns the rewards of an answer; None for an answer that is not as expected."""
        values = answer.get("rewards", answer.get("scores")) if isinstance(answer, dict) else None
        if isinstance(values, int | float) and count == 1:
            values = [values]
        if not isinstance(values, list) or len(values) != count:
            return None
        return [finite_number(value) for value in values]
