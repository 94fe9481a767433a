"""A reward on another machine or in another environment, over HTTP, in the format of UniGRPO, OpenRLHF or
Flow-GRPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from rewards.base import Reward, RewardInput
from rewards.http_client import Client, finite_number, jpeg_bytes, png_base64, without_secrets

FIELDS = {
    "unigrpo": ("rewards", "scores"),
    "openrlhf": ("rewards", "scores"),
    "flow_grpo": ("outputs", "scores", "rewards"),
}
"""Names of the list of rewards in the answers of each format."""
GRAY_DOG = RewardInput(
    prompt="a photo of a dog",
    completion="",
    task="t2i",
    image=Image.new("RGB", (64, 64), "gray"),
    metadata={"tag": "single_object", "include": [{"class": "dog", "count": 1}]},
)
"""A sample that every server of Flow-GRPO can score."""


class Remote(Reward):
    """Posts batches of samples and gets their rewards.

    `unigrpo`: ``{"prompts": [...], "completions": [...], "labels": [...], "tasks": [...], "metadata": [{...}],
    "images": [base64 PNG or null], "input_images": [[base64 PNG]]}`` is answered by ``{"rewards": [number or null]}``.
    `openrlhf`: ``{"query": [...], "prompts": [...], "labels": [...]}`` is answered likewise; it has no images.
    `flow_grpo`: a pickled ``{"images": [JPEG], "prompts": [...], "meta_datas": [{...}], "only_strict": bool}`` is
    answered by a pickle with ``outputs`` (UnifiedReward, DeQA) or ``scores`` (GenEval). Only numbers, texts,
    containers and arrays are read from the answer, so that a server cannot run code here.
    """

    name = "remote"
    range = (float("-inf"), float("inf"))
    unit = "the server's own"

    def __init__(
        self,
        url: str,
        format: Literal["unigrpo", "openrlhf", "flow_grpo"] = "unigrpo",
        batch_size: int = 16,
        concurrency: int = 4,
        attempts: int = 4,
        timeout_seconds: float = 60.0,
        health_url: str = "",
        field: str = "",
        only_strict: bool = False,
    ) -> None:
        """Checks the settings.

        Args:
            url: Address to post to; several, joined by commas, are used in turn.
            format: Format of the messages.
            batch_size: Number of samples of one request.
            concurrency: Largest number of requests at a time.
            attempts: Number of attempts at each request.
            timeout_seconds: Time limit of one whole attempt.
            health_url: Address that answers with any JSON when the server is ready; it is checked before training. If
                empty, an empty batch is posted instead, or one gray image with `flow_grpo`.
            field: Name of the list of rewards in the answer, such as `strict_rewards` of a GenEval server. If empty,
                the usual names are tried.
            only_strict: Value of `only_strict` in requests to a GenEval server of Flow-GRPO.
        """
        if format not in FIELDS:
            raise ValueError(f"remote: no format {format!r}; choose one of {list(FIELDS)}")
        if batch_size < 1:
            raise ValueError(f"remote: batch_size is {batch_size}; it must be above 0")
        urls = [one.strip() for one in url.split(",")]
        self._client = Client(
            urls,
            concurrency=concurrency,
            attempts=attempts,
            timeout_seconds=timeout_seconds,
            is_pickle=format == "flow_grpo",
        )
        self._fields = (field,) if field else FIELDS[format]
        self._only_strict = only_strict
        self._urls, self._health_url = ",".join(map(without_secrets, urls)), health_url
        self._format, self._batch_size = format, batch_size

    def load(self) -> None:
        """Connects to the server.

        Raises:
            ServerDown: The server does not answer as expected.
        """
        if self._health_url:
            self._client.check(self._health_url, lambda _: "")
            return
        probe = [GRAY_DOG] if self._format == "flow_grpo" else []
        if self._values(self._client.post_all([self._body(probe)])[0], len(probe)) is None:
            asked, expected = ("one gray image", "[number]") if probe else ("an empty batch", "[]")
            raise ValueError(
                f'remote: {self._urls} does not answer {asked} with {{"{self._fields[0]}": {expected}}}; is it up?'
            )

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
        if self._format == "flow_grpo":
            return {
                "images": [_jpeg(item) for item in inputs],
                "prompts": prompts,
                "meta_datas": [dict(i.metadata) | {"prompt": i.prompt} for i in inputs],
                "only_strict": self._only_strict,
            }
        return {
            "prompts": prompts,
            "completions": [i.completion for i in inputs],
            "labels": labels,
            "tasks": [i.task for i in inputs],
            "metadata": [dict(i.metadata) for i in inputs],
            "images": [None if i.image is None else png_base64(i.image) for i in inputs],
            "input_images": [[png_base64(image) for image in i.input_images] for i in inputs],
        }

    def _values(self, answer: Any, count: int) -> list[float | None] | None:
        """Returns the rewards of an answer; None for an answer that is not as expected."""
        found = answer if isinstance(answer, dict) else {}
        values = next((found[name] for name in self._fields if name in found), None)
        if isinstance(values, np.generic) or (isinstance(values, np.ndarray) and values.size == count):
            values = values.tolist()  # an array of another size may be too large for a list
        if isinstance(values, int | float) and count == 1:
            values = [values]
        if not isinstance(values, list) or len(values) != count:
            return None
        return [finite_number(value.item() if isinstance(value, np.generic) else value) for value in values]


def _jpeg(item: RewardInput) -> bytes:
    if item.image is None:
        raise ValueError(
            f"remote: {item.prompt[:60]!r} has no generated image; the format flow_grpo scores only images"
        )
    return jpeg_bytes(item.image)
