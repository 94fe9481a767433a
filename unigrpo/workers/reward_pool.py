"""The reward processes of a run, which score batches in parallel with deadlines and are replaced if they hang or
die."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from rewards.base import RewardInput
from rewards.runtime.batch import RewardBatch
from rewards.runtime.host import RewardInfo
from rewards.runtime.process import DeadlineMissed, ProcessFailed
from rewards.runtime.scoring import Scores, missing
from unigrpo import ConfigError
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.cost.rewards import STEP_SECONDS
from unigrpo.data.images import read_image
from unigrpo.records import Prompt, RewardOutput, Rollout
from unigrpo.workers.reward import (
    applicable_rows,
    applies_to,
    outputs,
    prompt_input,
    reward_batch,
    with_local_models,
    work_metrics,
)
from unigrpo.workers.reward_process import Batch, LocalReward, ReplacedProcess, RewardHandle

logger = logging.getLogger(__name__)

REMINDER_SECONDS = 60.0
"""Time between two warnings that a reward is not ready."""
PLANNED_FRACTION = 0.25
"""Fraction of the deadline that a call of a costly reward is planned to take, by the measured rate."""
TRIAL_SAMPLES = 2
"""Samples of the first call of a costly reward, which measures the rate, and of a trial."""


class RewardNotReady(ConfigError):
    """A reward cannot be loaded, or not in time. The message names it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Scores of two samples by a reward before the run, and the estimated time of a step."""

    name: str
    scores: Scores
    seconds_per_sample: float
    """Time that one process needs for a sample."""
    num_processes: int
    step_seconds: float
    """Time that the samples of a step take on all processes, if the time grows with their number."""


class _Term:
    """One reward of the config: its processes, and the batches of the present step."""

    def __init__(self, config: RewardTermConfig, make_process: Callable[[], ReplacedProcess]) -> None:
        self.config = config
        self.name = config.name
        self.is_costly = False
        """Whether the samples take most of the reward's time, so that calls may have any size."""
        self._make_process = make_process
        self.processes = [make_process() for _ in range(max(config.num_workers, 1))]
        self._seconds_per_sample = 0.0
        """Rate of one process as last measured; 0 before the first call."""
        self._lock = threading.Lock()

    def learn(self, info: RewardInfo) -> None:
        """Records the properties that the reward reports after loading."""
        self.name = info.name
        self.is_costly = info.is_costly

    def try_out(self, inputs: Any, count: int, samples_per_step: float) -> Trial:
        """Calls the reward once, which measures its rate.

        Raises:
            RewardNotReady: The call failed, or a deadline of the run cannot be met.
        """
        where, limit = f"reward {self.name!r}", self.config.timeout_seconds
        started = time.monotonic()
        try:
            scores = self.processes[0].score(inputs, Batch(0, count), seconds=limit)
        except DeadlineMissed as error:
            raise RewardNotReady(
                f"{where} did not score {count} samples within its timeout_seconds {limit:g}, and a step has "
                f"{samples_per_step:.0f}; raise timeout_seconds, or give it a GPU (num_gpus)"
            ) from error
        except ProcessFailed as error:
            raise RewardNotReady(f"{where} {error}") from error
        assert scores is not None, "nothing else calls before the run"
        if scores.has_failed:
            raise RewardNotReady(f"{where} {scores.reason}")
        self._measure(count, time.monotonic() - started)
        rate, size = self._seconds_per_sample, self.config.batch_size
        if self.is_costly and rate * max(size, 1) > limit:
            raise RewardNotReady(
                f"{where} needs {rate:.3g} s for a sample, so that a call of {max(size, 1)} misses timeout_seconds "
                f"{limit:g}; lower its batch_size (0 chooses it by the rate), or raise timeout_seconds"
            )
        num_processes = len(self.processes)
        return Trial(
            name=self.name,
            scores=scores,
            seconds_per_sample=rate,
            num_processes=num_processes,
            step_seconds=rate * samples_per_step / num_processes,
        )

    def wanted_processes(self, samples_per_step: float) -> int:
        """Returns the number of processes that score a step within :data:`STEP_SECONDS` by the measured rate."""
        return max(1, math.ceil(self._seconds_per_sample * samples_per_step / STEP_SECONDS))

    def grow(self, num_processes: int) -> list[ReplacedProcess]:
        """Starts further processes, up to a number. Returns those that are to be loaded."""
        added = [self._make_process() for _ in range(num_processes - len(self.processes))]
        self.processes += added
        return added

    def score(self, inputs: Any, count: int) -> tuple[list[Scores], float]:
        """Scores the samples of a step on all processes.

        Returns:
            The scores of consecutive batches, and when the last one came, as ``time.monotonic`` counts.
        """
        self._count, self._finished = count, time.monotonic()
        self._waiting = deque([Batch(0, count)] if count else [])
        self._scores: dict[int, Scores] = {}
        places = [process for process in self.processes for _ in range(self.config.concurrency)]
        with ThreadPoolExecutor(max_workers=len(places)) as threads:
            for future in [threads.submit(self._work, process, inputs) for process in places]:
                future.result()
        return [self._scores[start] for start in sorted(self._scores)], self._finished

    def _work(self, process: ReplacedProcess, inputs: Any) -> None:
        """Scores batches on one process until none is left."""
        while (batch := self._next()) is not None:
            started = time.monotonic()
            try:
                scores = process.score(inputs, batch, seconds=self.config.timeout_seconds)
            except ProcessFailed as error:
                logger.warning("reward %r %s; its process is started again", self.name, error)
                scores = missing(batch.size, str(error))
                if isinstance(error, DeadlineMissed) and self.is_costly and batch.size > 1:
                    self._measure(batch.size, self.config.timeout_seconds)  # it is at least as slow as that
                    batch.attempts = 0  # smaller calls are another try of their own
            if scores is not None and not scores.has_failed:
                self._measure(batch.size, time.monotonic() - started)
            self._settle(batch, scores)

    def _next(self) -> Batch | None:
        """Takes a batch of the samples that are waiting; None if there are none."""
        with self._lock:
            if not self._waiting:
                return None
            batch = self._waiting.popleft()
            size = self._batch_size()
            if batch.attempts == 0 and batch.size > size:
                self._waiting.appendleft(Batch(batch.start + size, batch.stop))
                batch.stop = batch.start + size
            batch.attempts += 1
            return batch

    def _batch_size(self) -> int:
        """Samples of the next call."""
        if self.config.batch_size:
            return self.config.batch_size
        equal = -(-self._count // len(self.processes))
        if not self.is_costly:
            return equal
        if not self._seconds_per_sample:
            return min(equal, TRIAL_SAMPLES)
        fitting = int(PLANNED_FRACTION * self.config.timeout_seconds / self._seconds_per_sample)
        return max(1, min(equal, fitting))

    def _measure(self, size: int, seconds: float) -> None:
        """Keeps the newest rate, or half of the one before if that is slower, since slow calls miss deadlines."""
        with self._lock:
            self._seconds_per_sample = max(seconds / size, 0.5 * self._seconds_per_sample)

    def _settle(self, batch: Batch, scores: Scores | None) -> None:
        """Keeps the scores of a batch, or lets it wait for another call."""
        with self._lock:
            if scores is None:
                batch.attempts -= 1
                self._waiting.append(batch)
            elif scores.has_failed and batch.attempts < self.config.attempts:
                logger.info("reward %r %s; it is called once more", self.name, scores.reason)
                self._waiting.append(batch)
            else:
                self._scores[batch.start] = scores
                self._finished = time.monotonic()


class RewardPool:
    """All rewards of a run, each in its own processes, so that no reward can delay or end another."""

    def __init__(
        self,
        config: RewardConfig,
        start: Callable[[RewardTermConfig], RewardHandle],
        *,
        share: Callable[[RewardBatch], Any] = lambda batch: batch,
        free_cpus: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Starts all processes, which load with :meth:`initialize`.

        Args:
            config: The rewards.
            start: Starts a process of a reward.
            share: Turns the samples of a step into what the processes take as inputs.
            free_cpus: Number of CPUs that further processes may take.
        """
        self._free_cpus = free_cpus
        self._start, self._share = start, share
        self._terms = [_Term(term, self._process_maker(term)) for term in config.terms]
        self._thread = ThreadPoolExecutor(max_workers=1)

    @property
    def names(self) -> list[str]:
        """Names of the rewards, in the order of the config."""
        return [term.name for term in self._terms]

    def initialize(self, prompts: Sequence[Prompt] = (), samples_per_step: int = 0) -> None:
        """Waits until every reward is loaded, and gives costly ones on CPUs the processes that they need.

        Args:
            prompts: Prompts of the run, by which the rate of costly rewards is measured; none starts no more processes
                than the config says.
            samples_per_step: Samples of a step.

        Raises:
            RewardNotReady: One cannot be loaded, or not in time; the message names it.
        """
        self._load([(term, process) for term in self._terms for process in term.processes])
        for term in self._terms:
            if term.is_costly and prompts:
                self._try_out(term, prompts, samples_per_step)
        added: list[tuple[_Term, ReplacedProcess]] = []
        for term in self._terms:
            if term.is_costly and prompts and not term.config.num_workers and not term.config.num_gpus:
                wanted = term.wanted_processes(_applicable_samples(term.config, prompts, samples_per_step))
                room = int(self._free_cpus() / max(term.config.cpus, 0.01)) - len(added)
                added += [(term, process) for process in term.grow(min(wanted, len(term.processes) + max(room, 0)))]
                number = len(term.processes)
                logger.info("reward %r works in %d process%s", term.name, number, "es" * (number > 1))
        self._load(added)

    def try_out(self, prompts: Sequence[Prompt], samples_per_step: int) -> list[Trial]:
        """Calls every reward that applies to some prompt once, with two prompts and stand-ins for their samples.

        Raises:
            RewardNotReady: A call failed, or a deadline cannot be met; the message names the reward.
        """
        trials = [self._try_out(term, prompts, samples_per_step) for term in self._terms]
        return [trial for trial in trials if trial is not None]

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        """Returns the rewards of each rollout. A reward that failed at all attempts is missing, with a reason."""
        started = time.monotonic()
        batch, shared = reward_batch(rollouts), dict[tuple[int, ...], Any]()
        rows = {term.name: applicable_rows(term.config, rollouts) for term in self._terms}
        for found in rows.values():  # rewards of the same samples share them
            if tuple(found) not in shared:
                shared[tuple(found)] = self._share(batch.select(found))
        with ThreadPoolExecutor(max_workers=len(self._terms)) as threads:
            work = {
                term.name: threads.submit(term.score, shared[tuple(found)], len(found))
                for term, found in zip(self._terms, rows.values(), strict=True)
            }
        results = {name: future.result() for name, future in work.items()}
        scores = {name: found for name, (found, _) in results.items()}
        seconds = {name: finished - started for name, (_, finished) in results.items()}
        return outputs(scores, rows, len(rollouts)), work_metrics(scores, seconds)

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        """Starts :meth:`score` without waiting. Calling the returned function waits, and raises its errors."""
        return self._thread.submit(self.score, rollouts).result

    def close(self) -> None:
        """Ends all processes, after a short time in which they can close."""
        processes = [process for term in self._terms for process in term.processes]
        with ThreadPoolExecutor(max_workers=len(processes)) as threads:
            list(threads.map(ReplacedProcess.close, processes))
        self._thread.shutdown()

    def _load(self, processes: Sequence[tuple[_Term, ReplacedProcess]]) -> None:
        if not processes:
            return
        threads = ThreadPoolExecutor(max_workers=len(processes))
        loading = {
            threads.submit(process.load, seconds=term.config.load_timeout_seconds): term for term, process in processes
        }
        threads.shutdown(wait=False)
        for future in _finished(loading):
            term = loading[future]
            term.learn(_loaded(term.config, future))

    def _try_out(self, term: _Term, prompts: Sequence[Prompt], samples_per_step: int) -> Trial | None:
        applicable = [prompt for prompt in prompts if applies_to(term.config, prompt)][:TRIAL_SAMPLES]
        if not applicable:
            return None
        samples = _applicable_samples(term.config, prompts, samples_per_step)
        stand_ins = [trial_input(prompt) for prompt in applicable]
        shared = self._share(RewardBatch(stand_ins, [None] * len(stand_ins)))
        return term.try_out(shared, len(applicable), samples)

    def _process_maker(self, term: RewardTermConfig) -> Callable[[], ReplacedProcess]:
        return lambda: ReplacedProcess(lambda: self._start(term))


def trial_input(prompt: Prompt) -> RewardInput:
    """Returns a placeholder for a sample of a prompt: a thought and the gold answer, or a gray image."""
    is_image = prompt.task in ("t2i", "r2i")
    text = f"<think>This stands in for a sample.</think>{prompt.label or 'No gold answer.'}"
    completion = "" if prompt.task == "t2i" else text
    return replace(
        prompt_input(prompt),
        completion=completion,
        raw_completion=completion,
        image=Image.new("RGB", (256, 256), "gray") if is_image else None,
        input_images=tuple(read_image(path) for path in prompt.images),
    )


def _applicable_samples(term: RewardTermConfig, prompts: Sequence[Prompt], samples_per_step: int) -> float:
    """The part of the samples of a step that a reward scores, by the prompts."""
    return samples_per_step * sum(applies_to(term, prompt) for prompt in prompts) / len(prompts)


def local_reward_pool(config: RewardConfig) -> RewardPool:
    """The rewards in processes of this machine, without Ray."""
    terms = tuple(replace(term, concurrency=1) for term in with_local_models(config).terms)
    return RewardPool(replace(config, terms=terms), LocalReward, free_cpus=lambda: len(os.sched_getaffinity(0)) - 1)


def _finished(loading: dict[Future[RewardInfo], _Term]) -> Iterator[Future[RewardInfo]]:
    """The futures as they finish, with a warning now and then about those that have not."""
    started = time.monotonic()
    waiting = set(loading)
    while waiting:
        done, waiting = wait(waiting, timeout=REMINDER_SECONDS, return_when="FIRST_COMPLETED")
        yield from done
        if not done:
            for name in dict.fromkeys(loading[future].config.name for future in waiting):
                waited = time.monotonic() - started
                logger.warning("reward %r is not ready after %.0f s; still waiting", name, waited)


def _loaded(config: RewardTermConfig, future: Future[RewardInfo]) -> RewardInfo:
    try:
        return future.result()
    except DeadlineMissed as error:
        raise RewardNotReady(
            f"reward {config.name!r} is not ready after {config.load_timeout_seconds:.0f} s; if it needs longer, set "
            f"its load_timeout_seconds (now {config.load_timeout_seconds:g}) in reward.terms"
        ) from error
    except (ProcessFailed, ValueError) as error:
        raise RewardNotReady(f"reward {config.name!r} could not start: {error}") from error
