"""Tests the format of Flow-GRPO's reward servers with a server that reads and writes as they do."""

from __future__ import annotations

import contextlib
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Attack
from PIL import Image

from rewards.base import RewardInput
from rewards.remote import Remote

Answer = Callable[[dict[str, Any]], Any]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[str]:
    """Starts a server of pickles and yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = pickle.loads(self.rfile.read(int(self.headers["Content-Length"])))
            raw = pickle.dumps(answer(body))
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def gray(level: int, **metadata: Any) -> RewardInput:
    image = Image.new("RGB", (16, 16), (level, level, level))
    return RewardInput(prompt=f"level {level}", completion="", task="t2i", image=image, metadata=metadata)


def levels(body: dict[str, Any]) -> list[float]:
    """Returns the gray level of each image, read as by Flow-GRPO's servers."""
    images = [Image.open(io.BytesIO(raw), formats=["jpeg"]) for raw in body["images"]]
    return [float(np.asarray(image).mean()) for image in images]


def test_unified_reward_and_deqa_answer_with_outputs() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return {"outputs": [np.float32(level) for level in levels(body)]}

    with server(answer) as url:
        reward = Remote(url, format="flow_grpo", batch_size=2, concurrency=1)
        reward.load()
        assert reward([gray(level) for level in (10, 20, 30)]) == pytest.approx([10, 20, 30], abs=1)
    assert bodies[0]["meta_datas"] == [
        {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
    ]
    assert [body["prompts"] for body in bodies[1:]] == [["level 10", "level 20"], ["level 30"]]


def test_geneval_answers_with_scores_and_strict_rewards() -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert [one["tag"] for one in body["meta_datas"]] == ["colors"] * 2 and body["only_strict"] is True
        scores = np.array([0.25, 0.75])
        return {
            "scores": scores,
            "rewards": [0.0, 0.0],
            "strict_rewards": [0.0, 1.0],
            "group_rewards": {"colors": [1]},
        }

    inputs = [gray(level, tag="colors") for level in (1, 2)]
    with server(answer) as url:
        assert Remote(url, format="flow_grpo", only_strict=True)(inputs) == [0.25, 0.75]
        strict = Remote(url, format="flow_grpo", only_strict=True, field="strict_rewards")
        assert strict(inputs) == [0.0, 1.0]


def test_an_answer_cannot_run_code_here(tmp_path: Path) -> None:
    with server(lambda body: {"outputs": [Attack(tmp_path / "attacked")]}) as url:
        assert Remote(url, format="flow_grpo", attempts=1)([gray(1)]) == [None]
    assert not (tmp_path / "attacked").exists()


def test_an_array_of_another_size_is_refused_and_not_converted_to_a_list() -> None:
    endless = np.broadcast_to(np.float32(1.0), 10**13)  # a list of it would have 80 TB
    assert Remote("http://127.0.0.1:9", format="flow_grpo")._values({"outputs": endless}, 1) is None


def test_a_wrong_answer_and_a_sample_without_image_are_named() -> None:
    message = r'does not answer one gray image with \{"outputs": \[number\]\}'
    with server(lambda body: {"scores": [0.0, 1.0]}) as url, pytest.raises(ValueError, match=message):
        Remote(url, format="flow_grpo", attempts=1).load()
    with pytest.raises(ValueError, match="'a question' has no generated image"):
        Remote("http://127.0.0.1:9", format="flow_grpo")([RewardInput(prompt="a question", completion="")])
    with pytest.raises(ValueError, match="no format 'grpc'"):
        Remote("http://127.0.0.1:9", format="grpc")  # type: ignore[arg-type]
