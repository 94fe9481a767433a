"""Sends many requests to a reward server at a time, with retries, deadlines, and a size limit for each answer."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import logging
import math
import pickle
import time
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from rewards.runtime import plain_pickle

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_WAIT = 30.0
"""Longest pause between two attempts, in seconds."""
MAX_ANSWER_BYTES = 16 * 2**20
"""Size limit of an answer after decompression. A batch of rewards takes a few kilobytes."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Hosts for which the proxy of the environment is never used."""
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses after which another attempt may succeed."""


class ServerDown(ValueError):
    """A server that a reward needs does not answer as expected. The message has its URL without keys."""


class Client:
    """Posts JSON to one or more servers in turn."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        api_key: str = "",
        concurrency: int = 8,
        requests_per_second: float = 0.0,
        attempts: int = 4,
        timeout_seconds: float = 60.0,
        is_pickle: bool = False,
    ) -> None:
        """Checks the settings and opens no connection.

        Args:
            urls: Addresses to which requests are posted, in turn.
            api_key: Bearer token of each request. An empty key is not sent.
            concurrency: Largest number of requests at a time.
            requests_per_second: Largest number of requests that start in a second; 0 sets no limit.
            attempts: Number of attempts at each request, with growing pauses. A `Retry-After` of the server is
                respected.
            timeout_seconds: Time limit of one whole attempt, from connecting to the last byte of the answer.
            is_pickle: Whether messages are pickled instead of JSON. Of answers only plain values are read
                (:mod:`rewards.runtime.plain_pickle`).

        Raises:
            ValueError: A setting is out of range, or a URL is no HTTP URL.
        """
        for name, value in (
            ("concurrency", concurrency),
            ("attempts", attempts),
            ("timeout_seconds", timeout_seconds),
        ):
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if not urls:
            raise ValueError("url is empty; give one or more URLs")
        for url in urls:
            check_url(url)
        self.counts: Counter[str] = Counter(failed_requests=0, retries=0)
        """Number of `requests`, `failed_requests` and `retries`, and other counts of the reward."""
        self._urls = itertools.cycle(urls)
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._concurrency = concurrency
        self._interval = 1 / requests_per_second if requests_per_second > 0 else 0.0
        self._attempts = attempts
        self._timeout = timeout_seconds
        self._is_pickle = is_pickle

    def post_all(self, bodies: Sequence[Any]) -> list[Any]:
        """Posts every body.

        Returns:
            The answers in the order of the bodies; None for a request that failed at all attempts.
        """
        results = asyncio.run(self._post_all(bodies))
        failures = [result for result in results if isinstance(result, Exception)]
        if failures:
            logger.warning("%d of %d requests failed, the first: %s", len(failures), len(bodies), _reason(failures[0]))
        return [None if isinstance(result, Exception) else result for result in results]

    def rates(self) -> dict[str, float]:
        """Returns the counts since the last call of this method, divided by the number of finished requests; empty
        without requests."""
        counts, self.counts = self.counts, Counter(failed_requests=0, retries=0)
        requests = counts.pop("requests", 0)
        return {name: number / requests for name, number in counts.items()} if requests else {}

    def check(self, url: str, problem: Callable[[Any], str]) -> None:
        """Gets a URL once.

        Args:
            url: A URL that answers with JSON.
            problem: Returns what is wrong with the answer, or an empty string.

        Raises:
            ServerDown: The server does not answer, or answers something else than expected.
        """
        check_url(url)
        try:
            found = problem(asyncio.run(self._get(url)))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ServerDown(f"{without_secrets(url)} does not answer as it should ({_reason(error)})") from error
        if found:
            raise ServerDown(f"{without_secrets(url)}: {found}")

    async def _get(self, url: str) -> Any:
        async with self._connections() as client:
            return await self._before_deadline(_answer(client, "GET", url))

    async def _post_all(self, bodies: Sequence[Any]) -> list[Any]:
        places = asyncio.Semaphore(self._concurrency)
        start = time.monotonic()

        async def one(client: httpx.AsyncClient, number: int, body: Any) -> Any:
            async with places:
                await asyncio.sleep(max(0.0, start + number * self._interval - time.monotonic()))
                return await self._post(client, next(self._urls), body)

        async with self._connections() as client:
            return list(await asyncio.gather(*(one(client, i, body) for i, body in enumerate(bodies))))

    def _connections(self) -> httpx.AsyncClient:
        no_proxy = {f"all://{host}": None for host in LOOPBACK}
        return httpx.AsyncClient(headers=self._headers, timeout=self._timeout, mounts=no_proxy)

    async def _post(self, client: httpx.AsyncClient, url: str, body: Any) -> Any:
        """Returns the answer, or the error of the last attempt."""
        try:
            content = (
                pickle.dumps(body) if self._is_pickle else json.dumps(body, allow_nan=False, default=str).encode()
            )
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self._attempts),
                wait=_pause,
                retry=retry_if_exception(_may_succeed_later),
                before_sleep=lambda _: self.counts.update(["retries"]),
                reraise=True,
            ):
                with attempt:
                    return await self._before_deadline(_answer(client, "POST", url, content, self._is_pickle))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            self.counts["failed_requests"] += 1
            return error
        finally:
            self.counts["requests"] += 1
        raise AssertionError("the last attempt returns or raises")

    async def _before_deadline(self, attempt: Coroutine[Any, Any, T]) -> T:
        """Limits the duration of a whole attempt, because the timeouts of httpx limit only each read."""
        try:
            return await asyncio.wait_for(attempt, self._timeout)
        except asyncio.TimeoutError as error:
            raise httpx.ReadTimeout(f"no whole answer within {self._timeout:g} s") from error


async def _answer(
    client: httpx.AsyncClient, method: str, url: str, content: bytes | None = None, is_pickle: bool = False
) -> Any:
    """Returns the JSON of an answer, or the values of its pickle.

    Raises:
        httpx.HTTPError: The request failed.
        ValueError: The answer is not in this format, too deeply nested, or larger than :data:`MAX_ANSWER_BYTES`.
    """
    kind = "application/octet-stream" if is_pickle else "application/json"
    headers = {"Content-Type": kind} if content is not None else None
    async with client.stream(method, url, content=content, headers=headers) as response:
        response.raise_for_status()
        raw = await _body(response)
    try:
        return plain_pickle.loads(raw) if is_pickle else json.loads(raw)
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply") from error


async def _body(response: httpx.Response) -> bytes:
    """Returns the body of an answer, decompressed piece by piece so that a small answer cannot fill the memory."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise ValueError(f"the answer is compressed by {encoding!r}, expected no compression")
    decompressor = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body = bytearray()
    try:
        async for piece in response.aiter_raw():
            if decompressor is not None:
                piece = decompressor.decompress(piece, MAX_ANSWER_BYTES + 1 - len(body))
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    except zlib.error as error:
        raise ValueError(f"the answer is no valid {encoding}: {error}") from error
    return bytes(body)


def finite_number(value: Any) -> float | None:
    """Returns a number of a foreign JSON document; None for infinity, too large numbers and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def jpeg_bytes(image: Image.Image) -> bytes:
    """Returns an image as JPEG, for servers that read nothing else. Its quality of 95 changes pixels slightly."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def png_base64(image: Image.Image) -> str:
    """Returns an image as PNG in base64, without loss, so that the server scores the generated pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def check_url(url: str) -> None:
    """Raises ValueError for anything but an HTTP URL. The message does not show it, because it may contain a key."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, or no number as the port
        is_http = False
    if not is_http or not url.isprintable():
        raise ValueError(
            "url is not the address of a server; give URLs that start with http:// or https://, such as "
            "http://127.0.0.1:8000/score"
        )


def without_secrets(url: str) -> str:
    """Returns an HTTP URL for messages, without user, password and query.

    >>> without_secrets("http://me:secret@host:80/v1?key=secret")
    'http://host:80/v1'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reason(error: Exception) -> str:
    """Returns an error in words, without the URL in the message of a status error, which may contain a key."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return f"{type(error).__name__}: {error}"


def _may_succeed_later(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in RETRIED
    return isinstance(error, httpx.TransportError)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, httpx.HTTPStatusError) and error.response.headers.get("Retry-After", "").isdigit():
        return min(float(error.response.headers["Retry-After"]), LONGEST_WAIT)
    return wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)(state)
