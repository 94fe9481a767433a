"""The samples of one modality: several sources, mixed and shuffled, as a function of the position."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch

from unigrpo import DataError
from unigrpo.config.corpora import SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.order import MIXTURE_BLOCK, Mixture, shuffled_index
from unigrpo.data.corpora.sample import CorpusSample, Skipped
from unigrpo.data.corpora.sources import ImageFolder, Source, Webdataset
from unigrpo.data.corpora.table_sources import CaptionSource, ChatSource, CotSource, TextSource, VqaSource
from unigrpo.rng import keyed_generator

logger = logging.getLogger(__name__)
SMALL_SOURCE = 1000
"""Smallest number of samples from which the fraction of unusable ones is computed, so that one at the start is not an
error. For a source with fewer samples, the fraction is that of its unusable samples so far among all its samples."""
KINDS: Mapping[str, Callable[[SourceConfig], Source]] = {
    "image_folder": ImageFolder,
    "webdataset": Webdataset,
    "captions": CaptionSource,
    "text": TextSource,
    "chat": ChatSource,
    "vqa": VqaSource,
    "conversations": ChatSource,
    "cot": CotSource,
}


def is_table(config: SourceConfig) -> bool:
    """Whether a source is a table, which may be a data set of the Hub."""
    return config.kind not in ("image_folder", "webdataset")


class CorpusStream(torch.utils.data.Dataset[CorpusSample]):
    """An endless sequence of samples. The sample at a position depends on the seed, the sources and the position
    alone, so that nothing has to be saved for a resume, and ranks and loader processes can divide the positions.

    Each source has its own shuffled epochs. A sample that cannot be used is logged, counted and replaced by another
    one of the same source, and too many of them are an error.

    As a map-style data set it can be given to a torch DataLoader with a sampler of positions. Loader processes count
    for themselves; :meth:`add_counts` adds their counts.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceConfig],
        seed: int,
        *,
        check: Callable[[CorpusSample], object] | None = None,
    ) -> None:
        """Opens the sources.

        Args:
            sources: Sources by name. The name determines a source's random numbers, whatever the other sources are.
            seed: Seed of the order and of all random choices in a sample.
            check: Raises BadSample for a sample that does not fit, such as RowEncoder.check for one that is too long.

        Raises:
            ValueError: A source is missing, empty, or lacks columns; the message names it.
        """
        self._mixture = Mixture({name: config.weight for name, config in sources.items()}, seed)
        self._configs = dict(sources)
        self._sources = {name: _open(name, config) for name, config in sources.items()}
        self._seed = seed
        self._check = check
        self.seen: Counter[str] = Counter()
        """Number of samples that were read, by source."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Number of samples that could not be used, by source and reason; one that occurs again is counted again."""
        self._broken: dict[str, set[int]] = {name: set() for name in sources}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each source, unusable ones included."""
        return {name: len(source) for name, source in self._sources.items()}

    def sample(self, position: int) -> CorpusSample:
        """Returns the sample at a position.

        Args:
            position: Any position from 0 on.

        Raises:
            ValueError: Too many samples of its source cannot be used.
        """
        name, place = self._mixture.source_at(position)
        source = self._sources[name]
        index = shuffled_index(place, len(source), self._seed, name)
        skipped: list[Skipped] = []
        while True:
            generator = keyed_generator(self._seed, name, "sample", place, len(skipped))
            if skipped:
                index = int(torch.randint(len(source), (1,), generator=generator))
            try:
                sample = source.read(index, generator)
                if self._check:
                    self._check(sample)
            except BadSample as error:
                logger.warning("%s: skipped (%s): %s", name, error.reason, error)
                skipped.append((error.reason, index))
                self.add_counts(name, 1, skipped[-1:])
            else:
                self.add_counts(name, 1)
                return dataclasses.replace(sample, source=name, skipped=tuple(skipped))

    def __getitem__(self, position: int) -> CorpusSample:
        return self.sample(position)

    def first_positions(self) -> list[int]:
        """Returns the first position of each source."""
        found: dict[str, int] = {}
        for position in range(MIXTURE_BLOCK):
            found.setdefault(self._mixture.source_at(position)[0], position)
        return list(found.values())

    def add_counts(self, name: str, num_seen: int, skipped: Sequence[Skipped] = ()) -> None:
        """Counts samples of a source, such as those of a loader process: ``1 + len(skipped)`` and ``skipped``.

        Raises:
            ValueError: Too many of them could not be used.
        """
        self.seen[name] += num_seen
        self.counts.update((name, reason) for reason, _ in skipped)
        reasons = {reason: number for (source, reason), number in self.counts.items() if source == name}
        broken, of, allowed = sum(reasons.values()), self.seen[name], self._configs[name].max_bad_fraction
        limit = allowed * max(of, SMALL_SOURCE)
        size = len(self._sources[name])
        if size <= SMALL_SOURCE:
            self._broken[name].update(index for _, index in skipped)
            broken, of, limit = len(self._broken[name]), size, allowed * size
        if broken > limit:
            raise DataError(
                f"source {name}: {broken} of {of} samples cannot be used ({_listed(reasons)}), more than "
                f"max_bad_fraction {allowed} allows; the log names them. Repair the data or raise max_bad_fraction"
            )


def _open(name: str, config: SourceConfig) -> Source:
    try:
        source = KINDS[config.kind](config)
    except ValueError as error:
        raise DataError(f"source {name}: {error}") from error
    logger.info("source %s: %d samples, weight %g", name, len(source), config.weight)
    return source


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
