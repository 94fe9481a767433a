"""Many requests to a server of rewards at a time: retried, spaced out, and bounded; pictures as PNG in base64."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

LONGEST_WAIT = 30.0
"""Seconds between two attempts, at most."""
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses after which another attempt may succeed."""


class ServerDown(ValueError):
    """A server that a reward needs does not answer as it should; the message has its URL, never a key."""


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
    ) -> None:
        """Args:
        urls: Where to post; used in turn.
        api_key: Sent as a bearer token; empty sends none.
        concurrency: Requests under way at a time.
        requests_per_second: Requests started in a second, at most; 0 is no limit.
        attempts: Of each request, with growing pauses; `Retry-After` of the server is kept to.
        timeout_seconds: Of one attempt.
        """
        for name, value in (
            ("concurrency", concurrency),
            ("attempts", attempts),
            ("timeout_seconds", timeout_seconds),
        ):
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError(f"url is {list(urls)}; give URLs that start with http:// or https://")
        self.counts: Counter[str] = Counter(failed_requests=0, retries=0)
        """Of `requests`, `failed_requests` and `retries`, and what the reward counts besides."""
        self._urls = itertools.cycle(urls)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._concurrency = concurrency
        self._interval = 1 / requests_per_second if requests_per_second > 0 else 0.0
        self._attempts = attempts
        self._timeout = timeout_seconds

    def post_all(self, bodies: Sequence[Any]) -> list[Any]:
        """The answers, in the order of the requests; None for one that failed at all attempts."""
        return asyncio.run(self._post_all(bodies))

    def rates(self) -> dict[str, float]:
        """What was counted since the last time, for each finished request; nothing if there was none."""
        counts, self.counts = self.counts, Counter(failed_requests=0, retries=0)
        requests = counts.pop("requests", 0)
        return {name: number / requests for name, number in counts.items()} if requests else {}

    def check(self, url: str, expected: Callable[[Any], str]) -> None:
        """Gets a URL once.

        Args:
            url: Answers with JSON.
            expected: What is wrong with the answer; empty if nothing is.

        Raises:
            ServerDown: It does not answer, or not as expected.
        """
        try:
            answer = httpx.get(url, headers=self._headers, timeout=self._timeout)
            answer.raise_for_status()
            problem = expected(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise ServerDown(f"{url} does not answer as it should ({type(error).__name__}: {error})") from error
        if problem:
            raise ServerDown(f"{url}: {problem}")

    async def _post_all(self, bodies: Sequence[Any]) -> list[Any]:
        places = asyncio.Semaphore(self._concurrency)
        start = time.monotonic()

        async def one(client: httpx.AsyncClient, number: int, body: Any) -> Any:
            async with places:
                await asyncio.sleep(max(0.0, start + number * self._interval - time.monotonic()))
                return await self._post(client, next(self._urls), body)

        async with httpx.AsyncClient(headers=self._headers, timeout=self._timeout) as client:
            return list(await asyncio.gather(*(one(client, i, body) for i, body in enumerate(bodies))))

    async def _post(self, client: httpx.AsyncClient, url: str, body: Any) -> Any:
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self._attempts),
                wait=_pause,
                retry=retry_if_exception(_may_succeed_later),
                before_sleep=lambda _: self.counts.update(["retries"]),
                reraise=True,
            ):
                with attempt:
                    answer = await client.post(url, json=body)
                    answer.raise_for_status()
                    return answer.json()
        except (httpx.HTTPError, ValueError):
            self.counts["failed_requests"] += 1
        finally:
            self.counts["requests"] += 1
        return None


def png_base64(picture: Image.Image) -> str:
    """A picture as PNG in base64: without loss, so that what is scored is what was drawn."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _may_succeed_later(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in RETRIED
    return isinstance(error, httpx.TransportError)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, httpx.HTTPStatusError) and error.response.headers.get("Retry-After", "").isdigit():
        return min(float(error.response.headers["Retry-After"]), LONGEST_WAIT)
    return wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)(state)
