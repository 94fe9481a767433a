"""Tests the messages of remote rewards without a server: requests at the start, and answers that are no rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rewards.base import RewardInput
from rewards.http_client import Client
from rewards.remote import Remote

INPUTS = [RewardInput(prompt=str(i), completion="c", label=str(i)) for i in range(5)]


class Answers(Client):
    """A client that answers by a function and records the requests."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer, self.asked = answer, []

    def post_all(self, bodies: Sequence[Any]) -> list[Any]:
        self.asked += bodies
        return [self.answer(body) for body in bodies]

    def check(self, url: str, problem: Callable[[Any], str]) -> None:
        self.asked.append((url, problem({"status": "ready"})))

    def rates(self) -> dict[str, float]:
        return {"attempts": 1.0}


def remote(answer: Callable[[Any], Any], **options: Any) -> tuple[Remote, Answers]:
    made, client = Remote("http://127.0.0.1:9", **options), Answers(answer)
    made._client = client
    return made, client


def test_samples_are_divided_into_requests_and_an_invalid_answer_affects_only_its_request() -> None:
    reward, client = remote(
        lambda body: None if "2" in body["prompts"] else {"scores": [len(p) + 0.5 for p in body["prompts"]]},
        batch_size=2,
    )
    assert reward(INPUTS) == [1.5, 1.5, None, None, 1.5]
    assert [body["prompts"] for body in client.asked] == [["0", "1"], ["2", "3"], ["4"]]
    assert reward.logs() == {"attempts": 1.0}


def test_with_a_health_url_nothing_is_scored_at_the_start() -> None:
    reward, client = remote(lambda _: pytest.fail("it was asked to score"), health_url="http://127.0.0.1:9/health")
    reward.load()
    assert client.asked == [("http://127.0.0.1:9/health", "")], "any JSON is accepted"


def test_without_a_health_url_an_empty_batch_checks_the_format_of_the_server() -> None:
    reward, client = remote(lambda _: {"rewards": []})
    reward.load()
    assert [body["prompts"] for body in client.asked] == [[]]
    reward, _ = remote(lambda _: {"values": []})
    with pytest.raises(ValueError, match=r'does not answer an empty batch with {"rewards": \[\]}; is it up'):
        reward.load()


def test_a_server_of_flow_grpo_is_asked_with_a_gray_image() -> None:
    reward, client = remote(lambda _: {"outputs": np.float64(0.5)}, format="flow_grpo")
    reward.load()
    [body] = client.asked
    assert body["images"][0].startswith(b"\xff\xd8"), "a JPEG"
    assert body["meta_datas"][0]["prompt"] == body["prompts"][0] == "a photo of a dog"
    reward, _ = remote(lambda _: {}, format="flow_grpo", field="strict_rewards")
    with pytest.raises(ValueError, match=r'does not answer one gray image with {"strict_rewards": \[number\]}'):
        reward.load()


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ({"rewards": [1, None, "3", float("nan"), True]}, [1.0, None, None, None, None]),
        ({"rewards": np.arange(5.0)}, [0.0, 1.0, 2.0, 3.0, 4.0]),
        ({"rewards": np.arange(4.0)}, [None] * 5),
        ({"rewards": "12345"}, [None] * 5),
        ([1, 2, 3, 4, 5], [None] * 5),
    ],
)
def test_only_numbers_of_an_answer_are_rewards(answer: Any, values: list[float | None]) -> None:
    assert remote(lambda _: answer)[0](INPUTS) == values


def test_a_batch_of_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0; it must be above 0"):
        Remote("http://127.0.0.1:9", batch_size=0)
