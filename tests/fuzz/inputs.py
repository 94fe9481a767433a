"""Tests that mutated prompts, images, tars, checkpoints and answers of reward servers are read or refused in one line.

``python tests/fuzz/inputs.py --minutes 5 --seed 0`` runs all kinds in turn. It stops at an error of another class than
those of UniGRPO, at an input that takes too long, and if the memory exceeds a limit, and prints the seed that makes
the input again.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import itertools
import json
import logging
import math
import random
import resource
import shutil
import signal
import socketserver
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rewards.base import RewardInput
from rewards.judge import Judge
from rewards.remote import Remote
from unigrpo import CheckpointError, ConfigError, DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.tars import TarSamples
from unigrpo.data.images import read_image, square_pixels
from unigrpo.data.prompts import load_prompts
from unigrpo.models.checkpoint_io import load_config, load_policy
from unigrpo.models.image_tokenizer import load_image_tokenizer
from unigrpo.models.loading import load_tokenizer
from unigrpo.models.sampling_defaults import SamplingDefaults

ROOT = Path(__file__).parents[2]
OURS = (ConfigError, DataError, CheckpointError, BadSample)
"""Errors that say in one line what is wrong with an input."""
MAX_SECONDS = 20.0
"""Limit of the seconds of one input on a busy machine."""
MAX_GROWTH = 400 * 2**20
"""Limit of the growth of the peak memory of this process in bytes."""
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "0",
    "null", "\ud800", "\x00", "\ufeff", "a" * 5000, "[MASK]", "<|endoftext|>", "../../../etc/passwd", "/etc/passwd",
    "%s{}", [], {}, [[]], [None], {"": ""}, {"a": {"a": {}}}, [1, "a"],
)  # fmt: skip
ODD_BYTES = (
    b"",
    b"\x00",
    b"\xff" * 4,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\xe2\x80\xa8",
    b"{",
    b"[" * 3000,
    b'"',
    b",",
)


class Failure(AssertionError):
    """An input was neither read nor refused as required."""


class TooSlow(BaseException):
    """An input takes too long. This is no subclass of Exception, which the tested code could catch."""


def mutated(draw: random.Random, content: bytes) -> bytes:
    """Returns bytes with one to four changes."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, length = draw.randrange(len(changed) + 1), draw.choice((1, 1, 4, 64, 1000))
        kind = draw.randrange(5)
        if kind == 0 and changed:
            changed[min(place, len(changed) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[place : place + length] = draw.choice(ODD_BYTES)
        elif kind == 2:
            changed[place:place] = changed[draw.randrange(len(changed) + 1) :][:length]
        elif kind == 3:
            changed[place : place + length] = draw.randbytes(min(length, 64))
        else:
            del changed[place:]
    return bytes(changed)


def mutated_value(draw: random.Random, value: Any) -> Any:
    """Returns a JSON value of which one part is replaced by an unusual value, left out, or nested deeply."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        rest = {name: part for name, part in value.items() if name != key}
        return rest if draw.random() < 0.2 else {**rest, key: mutated_value(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        return [*value[:place], mutated_value(draw, value[place]), *value[place + 1 :]]
    if draw.random() < 0.1:
        for _ in range(draw.choice((3, 200))):
            value = [value] if draw.random() < 0.5 else {"a": value}
        return value
    return draw.choice(ODD_VALUES)


def mutated_json(draw: random.Random, value: Any) -> bytes:
    """Returns JSON whose value or bytes are mutated."""
    if draw.random() < 0.7:
        return json.dumps(mutated_value(draw, value)).encode()
    return mutated(draw, json.dumps(value).encode())


class Prompts:
    """Files of prompts in the forms of several trainers."""

    ROWS = (
        {"prompt": "1+1=", "label": "2"},
        {"question": "What is 3?", "answer": "a\n#### 3", "source": {"a": 1}},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}], "label": "1"},
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "reward_model": {"ground_truth": "3"},
        },
        {"prompt": "What is this?", "images": ["a.png"], "label": "cat"},
        {"task": "t2i", "prompt": "a cat"},
        {"problem": "2x", "solution": "\\boxed{4}", "options": {"A": "1", "B": "2"}},
        {"question": "Which?", "A": "1", "B": "2", "answer": "B", "hint": "x"},
        {"question_stem": "Which?", "option": "a ) 38 , b ) 27", "cop": 1, "passage": "y"},
        {"message": '[{"role": "user", "content": "Hi"}]', "gt_answer": "Ans: 3"},
        {"instruction": "Add.", "input": "1 2", "output": "3"},
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        Image.new("RGB", (4, 4)).save(folder / "a.png")

    def try_one(self, draw: random.Random) -> None:
        row = draw.choice(self.ROWS)
        ending = draw.choice((".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".jsonl.gz", ".parquet", ".arrow"))
        lines = [json.dumps(row).encode()] * 3
        lines[draw.randrange(3)] = mutated_json(draw, row)
        content = b"\n".join(lines) + b"\n"
        if ending in (".csv", ".tsv", ".txt", ".parquet", ".arrow"):
            content = mutated(
                draw, b"prompt,label\n1,2\n3,4\n" if ending == ".csv" else b"prompt\tlabel\n1\t2\n3\t4\n"
            )
        elif ending == ".jsonl.gz":
            content = gzip.compress(content) if draw.random() < 0.5 else mutated(draw, gzip.compress(content))
        path = self._folder / f"prompts{ending}"
        path.write_bytes(content)
        for prompt in load_prompts(str(path), max_samples=2):
            prompt.text.encode()  # fails for a lone surrogate, which cannot be written to a file
            if not prompt.text:
                raise Failure("a prompt without text")


class Images:
    """Image files of all formats that are read, and some that are not."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "image.png"
        exif = Image.Exif()
        exif[0x0112] = 6
        self._seeds: list[bytes] = []
        pixels = Image.radial_gradient("L").resize((24, 16))
        for kind, mode in itertools.product(
            ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA"), ("L", "RGB", "RGBA")
        ):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError):  # a format does not support every mode
                pixels.convert(mode).save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
                self._seeds.append(buffer.getvalue())
        self._seeds.append(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")

    def try_one(self, draw: random.Random) -> None:
        self._path.write_bytes(mutated(draw, draw.choice(self._seeds)))
        for fit in ("crop", "stretch", "pad"):
            squared = square_pixels(read_image(str(self._path)), 16, fit)
            if squared.shape != (3, 16, 16) or not bool(squared.isfinite().all()):
                raise Failure(f"a square of shape {tuple(squared.shape)}, or one that is not finite")


class Tars:
    """Webdataset tars."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "a.tar"
        self._seeds: list[bytes] = []
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
                for number, ending in itertools.product(range(3), ("jpg", "txt", "json")):
                    member = tarfile.TarInfo(f"{'long' * 30 if number == 2 else 'part'}/{number:04}.{ending}")
                    member.size = 700
                    tar.addfile(member, io.BytesIO(bytes(700)))
            self._seeds.append(buffer.getvalue())

    def try_one(self, draw: random.Random) -> None:
        self._path.write_bytes(mutated(draw, draw.choice(self._seeds)))
        samples = TarSamples([self._path])
        for index in range(len(samples)):
            with contextlib.suppress(BadSample):
                samples.read(index)


class Checkpoints:
    """Folders of the tiny model with a changed config.json, a changed image tokenizer or other changed files."""

    FILES = (
        "config.json",
        "config.json",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "image_tokenizer/config.json",
        "image_tokenizer/model.safetensors",
        "sampling.json",
    )

    def __init__(self, folder: Path) -> None:
        self._model = folder / "model"
        shutil.copytree(ROOT / "examples" / "tiny" / "mixcot", self._model)

    def try_one(self, draw: random.Random) -> None:
        path = self._model / draw.choice(self.FILES)
        if not path.exists():
            return
        before = path.read_bytes()
        is_json = path.suffix == ".json"
        path.write_bytes(mutated_json(draw, json.loads(before)) if is_json else mutated(draw, before))
        try:
            if path.name.startswith("tokenizer"):
                load_tokenizer(str(self._model))
            elif path.parent != self._model:
                load_image_tokenizer(path.parent)
            elif path.name == "sampling.json":
                SamplingDefaults.read(self._model)
            else:
                load_config(str(self._model))
                load_policy(str(self._model), torch.float32, "sdpa")
        finally:
            path.write_bytes(before)


JUDGED: Any = {"choices": [{"message": {"role": "assistant", "content": '{"score": 7}'}, "finish_reason": "stop"}]}


class Answers:
    """Answers of reward servers: bytes that are not HTTP, HTTP with another body, and JSON with other values."""

    def __init__(self, folder: Path) -> None:
        self.content = b""
        answer: Any = self._answer  # a handler class is called as a function
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), answer)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._remote = Remote(url, attempts=1, timeout_seconds=0.5)
        self._judge = Judge(model="m", url=url, attempts=1, timeout_seconds=0.5)
        self._inputs = [RewardInput(prompt="1", completion=str(n), label=None, task="text") for n in range(2)]

    def _answer(self, request: Any, *_: Any) -> None:
        request.settimeout(0.5)
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += request.recv(65536) or b"\r\n\r\n"
            request.sendall(self.content)

    def try_one(self, draw: random.Random) -> None:
        reward, whole = draw.choice(((self._remote, {"rewards": [1.0, 0.5]}), (self._judge, JUDGED)))
        body = mutated_json(draw, whole)
        status = draw.choice(
            (b"200 OK", b"200 OK", b"200 OK", b"204 No", b"301 Moved", b"429 Slow", b"500 Error", b"999 x")
        )
        head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head += draw.choice(
            (b"", b"Content-Length: %d\r\n" % len(body), b"Content-Length: 9\r\n", b"Content-Encoding: gzip\r\n")
        )
        self.content = head + b"\r\n" + body
        if draw.random() < 0.3:
            self.content = mutated(draw, self.content)
        values = reward(self._inputs)
        if len(values) != 2 or not all(value is None or math.isfinite(value) for value in values):
            raise Failure(f"rewards {values}")


KINDS: dict[str, Callable[[Path], Any]] = {
    "prompts": Prompts, "images": Images, "tars": Tars, "checkpoints": Checkpoints, "answers": Answers,
}  # fmt: skip


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the block after some seconds. Only the main thread may use it."""

    def end(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def largest_memory() -> int:
    """Returns the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(kind: str, *, seed: int = 0, count: int = 10**9, minutes: float = 1e9, target: Any = None) -> Counter[str]:
    """Tries inputs of one kind.

    Args:
        kind: One of :data:`KINDS`.
        seed: Seed of the first input. The seed of each later input is larger by one.
        count: Number of inputs.
        minutes: Time after which no further input is tried.
        target: Object that gets the inputs instead of that of the kind.

    Returns:
        The number of inputs that were read, and of those that were refused.

    Raises:
        Failure: An input was neither read nor refused. The message has its seed.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        target = target or KINDS[kind](Path(folder))
        end, memory = time.monotonic() + 60 * minutes, 0
        for number in range(seed, seed + count):
            if time.monotonic() > end:
                break
            what = f"{kind}, seed {number}"
            try:
                with deadline(MAX_SECONDS):
                    target.try_one(random.Random(number))
                outcomes["read"] += 1
            except OURS as error:
                outcomes["refused"] += 1
                if not str(error) or len(str(error)) > 5000:
                    raise Failure(f"{what}: a message of {len(str(error))} characters") from error
            except TooSlow:
                raise Failure(f"{what}: not ended after {MAX_SECONDS:g} s") from None
            except Exception as error:
                raise Failure(f"{what}: {type(error).__name__}: {str(error)[:500]}") from error
            memory = memory or largest_memory()  # the first input imports modules
            if largest_memory() > memory + MAX_GROWTH:
                raise Failure(f"{what}: the memory has grown by {(largest_memory() - memory) / 2**20:.0f} MiB")
    return outcomes


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"what to try, of {', '.join(KINDS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="minutes for each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first input")
    parsed = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for kind in parsed.kinds:
        sys.stdout.write(f"{kind}: {dict(run(kind, seed=parsed.seed, minutes=parsed.minutes))}\n")


if __name__ == "__main__":
    main()
