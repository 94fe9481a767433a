"""The reward processes of a run: batches in parallel, with deadlines; one that hangs or dies is replaced."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rewards.base import RewardInput
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.distributed.ray_group import WorkerFailed, cause_of
from unigrpo.distributed.reward_actor import RewardActor
from unigrpo.records import RewardOutput, Rollout
from unigrpo.workers.reward import TermScores, applicable_rows, outputs, reward_inputs, work_metrics

logger = logging.getLogger(__name__)

REMINDER_SECONDS = 60.0
"""Between two warnings that a reward is not ready."""
RELOAD_FACTOR = 2.0
"""What a start may take beside a run that is under way, over what it took before."""
RELOAD_SECONDS = 60.0
"""What a start may take at least: a start of a few seconds can take many on a node that is busy."""


@dataclass
class _Batch:
    """Consecutive samples that one call of a reward scores."""

    term: _Term
    start: int
    stop: int
    attempts: int = 0


@dataclass(frozen=True)
class _Call:
    batch: _Batch
    worker: int
    """Index of the process."""
    actor: Any
    deadline: float
    seconds: float
    """What it may take."""


class _Term:
    """One reward with its processes."""

    def __init__(self, config: RewardTermConfig) -> None:
        self.config = config
        self.name = config.name
        self.actors = [self._start() for _ in range(config.num_workers)]
        self.load_seconds = 0.0
        """How long its first processes took to be ready, which a process that is started again may take as well."""
        self.loading: dict[Any, Any] = {}
        """Processes that were started again and are not ready, by what says that they are."""
        self.waiting: deque[_Batch] = deque()
        self.scores: dict[int, TermScores] = {}
        self.finished = 0.0
        self.inputs: Any = None
        """The samples of a step, in Ray's store."""

    def _start(self) -> Any:
        config = self.config
        actor: Any = ray.remote(num_cpus=config.num_cpus, num_gpus=config.num_gpus)(RewardActor)
        return actor.options(max_concurrency=config.concurrency).remote(config)

    def load(self) -> list[Any]:
        """Loads every process; returns what to wait for."""
        return [actor.load.remote() for actor in self.actors]

    def restart(self, worker: int, actor: Any) -> None:
        """Puts a new process in the place of one that hangs or is gone, unless that has been done."""
        if self.actors[worker] is actor:
            ray.kill(actor)
            self.actors[worker] = self._start()
            self.loading[self.actors[worker].load.remote()] = self.actors[worker]

    def seconds(self, actor: Any) -> float:
        """How long a call that a process gets now may take, its loading included."""
        is_loading = any(other is actor for other in self.loading.values())
        loading_seconds = max(RELOAD_FACTOR * self.load_seconds, RELOAD_SECONDS) if is_loading else 0.0
        return self.config.timeout_seconds + loading_seconds

    def cut(self, inputs: list[RewardInput]) -> None:
        """Queues the samples of a step as batches."""
        num_samples = len(inputs)
        self.inputs = ray.put(inputs)
        size = self.config.batch_size or -(-num_samples // self.config.num_workers)
        starts = range(0, num_samples, max(size, 1))
        self.waiting = deque(_Batch(self, start, min(start + size, num_samples)) for start in starts)
        self.scores = {}


def check_rewards(config: RewardConfig) -> None:
    """Loads every reward once, in its own process, and ends it again.

    Raises:
        WorkerFailed: One could not be loaded, such as a judge that is down or weights of another model; names it.
    """
    pool = RewardPool(config)
    try:
        pool.initialize()
    finally:
        pool.close()


def _loaded(term: _Term, ref: Any, seconds: float) -> None:
    """Takes note that a process of a reward is ready. Raises WorkerFailed if it is not."""
    try:
        name: Any = ray.get(ref)
    except RayError as error:
        raise WorkerFailed(f"reward {term.config.name!r} could not start: {cause_of(error)}") from error
    term.name, term.load_seconds = name, seconds


class RewardPool:
    """All rewards of a run, each in processes of its own, so that none can hold up or bring down another."""

    def __init__(self, config: RewardConfig) -> None:
        self._terms = [_Term(term) for term in config.terms]
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._is_closed = False

    @property
    def names(self) -> list[str]:
        """Names of the rewards, in the order of the config."""
        return [term.name for term in self._terms]

    def initialize(self) -> None:
        """Waits until every reward is loaded.

        Raises:
            WorkerFailed: One could not be, or not in time; names it.
        """
        started = time.monotonic()
        loading = {ref: term for term in self._terms for ref in term.load()}
        while loading:
            limit = min(term.config.load_timeout_seconds for term in loading.values())
            left = max(started + limit - time.monotonic(), 0.0)
            ready, _ = ray.wait(list(loading), timeout=min(REMINDER_SECONDS, left))
            waited = time.monotonic() - started
            for ref in ready:
                _loaded(loading.pop(ref), ref, waited)
            if ready:
                continue
            for term in dict.fromkeys(loading.values()):
                if waited >= term.config.load_timeout_seconds:
                    raise WorkerFailed(
                        f"reward {term.config.name!r} is not ready after {waited:.0f} s; if it needs longer, set its "
                        f"load_timeout_seconds (now {limit:g}) in reward.terms"
                    )
                logger.warning("reward %r is not ready after %.0f s; still waiting", term.config.name, waited)

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        """The rewards of each rollout; missing, with a reason, where a reward failed at all attempts."""
        rows = {term.name: applicable_rows(term.config, rollouts) for term in self._terms}
        everything = reward_inputs(rollouts)
        started = time.monotonic()
        running: dict[Any, _Call] = {}
        for term in self._terms:
            term.cut([everything[row] for row in rows[term.name]])
        while running or any(term.waiting for term in self._terms):
            self._fill(running)
            wait = max(0.0, min(call.deadline for call in running.values()) - time.monotonic())
            loading = [ref for term in self._terms for ref in term.loading]
            ready, _ = ray.wait([*running, *loading], timeout=wait)
            if self._is_closed:
                raise CancelledError("the rewards were closed before they had scored")
            for ref in ready:
                if ref in running:
                    self._finish(running.pop(ref), ref)
                else:
                    self._start_clocks(running, ref)
            for ref, call in list(running.items()):
                if not ready and call.deadline <= time.monotonic():
                    del running[ref]
                    self._give_up(call, f"did not answer within {call.seconds:g} s")
        scores = {term.name: [term.scores[start] for start in sorted(term.scores)] for term in self._terms}
        return outputs(scores, rows, len(rollouts)), work_metrics(
            scores, {t.name: max(t.finished - started, 0.0) for t in self._terms}
        )

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        """As :meth:`score`, without waiting: calling what this returns waits, and raises."""
        return self._thread.submit(self.score, rollouts).result

    def close(self) -> None:
        """Ends all processes, after a moment to end what they started."""
        self._is_closed = True
        actors = [actor for term in self._terms for actor in term.actors]
        ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=3.0)
        for actor in actors:
            ray.kill(actor)
        self._thread.shutdown()

    def _fill(self, running: dict[Any, _Call]) -> None:
        """Gives waiting batches to processes with a free place."""
        for term in self._terms:
            for worker, actor in enumerate(term.actors):
                busy = sum(call.actor is actor for call in running.values())
                for _ in range(min(term.config.concurrency - busy, len(term.waiting))):
                    batch = term.waiting.popleft()
                    batch.attempts += 1
                    ref = actor.score.remote(term.inputs, batch.start, batch.stop)
                    seconds = term.seconds(actor)
                    running[ref] = _Call(batch, worker, actor, time.monotonic() + seconds, seconds)

    def _start_clocks(self, running: dict[Any, _Call], loaded: Any) -> None:
        """The calls that waited for a process to be ready have their time from now on."""
        term = next(term for term in self._terms if loaded in term.loading)
        actor = term.loading.pop(loaded)
        seconds = term.config.timeout_seconds
        clock = {"deadline": time.monotonic() + seconds, "seconds": seconds}
        running |= {ref: replace(call, **clock) for ref, call in running.items() if call.actor is actor}

    def _finish(self, call: _Call, ref: Any) -> None:
        term = call.batch.term
        try:
            scores: TermScores = ray.get(ref)
        except RayActorError:
            self._give_up(call, "ended its own process")
        except RayError as error:
            self._give_up(call, f"failed: {cause_of(error)}")
        else:
            if scores.has_failed and call.batch.attempts < term.config.attempts:
                logger.info("reward %r %s; once more", term.name, scores.reason)
                term.waiting.append(call.batch)
                return
            term.scores[call.batch.start] = scores
            term.finished = time.monotonic()

    def _give_up(self, call: _Call, reason: str) -> None:
        """Starts the process again; its batch is scored again, or is missing after the last attempt."""
        term, batch = call.batch.term, call.batch
        if term.actors[call.worker] is not call.actor:  # another call of this process brought it down
            batch.attempts -= 1
            term.waiting.append(batch)
            return
        logger.warning("reward %r %s; its process is started again", term.name, reason)
        term.restart(call.worker, call.actor)
        if batch.attempts < term.config.attempts:
            term.waiting.append(batch)
            return
        term.scores[batch.start] = TermScores(values=[None] * (batch.stop - batch.start), reason=reason)
        term.finished = time.monotonic()
