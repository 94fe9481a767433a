"""Tests groups of workers: contiguous parts, and results in order."""

from unigrpo.workers.group import LocalGroup, split_evenly


class Doubler:
    def double(self, items, *, offset=0):
        return [2 * item + offset for item in items]

    def name(self):
        return "doubler"


def test_parts_are_contiguous_and_differ_by_at_most_one():
    for size in range(1, 6):
        for count in range(12):
            parts = split_evenly(list(range(count)), size)
            assert [x for part in parts for x in part] == list(range(count))
            assert len(parts) == size
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_local_group_runs_methods_on_its_worker():
    group = LocalGroup(Doubler())
    assert group.map(Doubler.double, [1, 2], offset=1) == [3, 5]
    assert group.call(Doubler.name) == ["doubler"]
