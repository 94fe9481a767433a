"""Tensors on their way between processes: every bit, every type, and no more than is asked for."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import torch
from ray import cloudpickle

from unigrpo.distributed.actors import WorkerActor
from unigrpo.distributed.ray_group import RayGroup
from unigrpo.distributed.tensor_transfer import pack, unpack

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file

TENSORS = {
    "long": torch.tensor([[1, -2], [3, 2**40]]),
    "bool": torch.tensor([True, False, True]),
    "special floats": torch.tensor([0.1, -0.0, float("nan"), float("inf")]),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "bfloat16": torch.tensor([[0.1, 3.0]], dtype=torch.bfloat16),
    "no dimension": torch.tensor(7.5),
    "empty": torch.zeros(2, 0, 3, dtype=torch.int16),
    "transposed": torch.arange(6).view(2, 3).T,
    "one of a column": torch.arange(8.0).view(1, 8)[:, 3],  # its stride is 8
    "bfloat16 column": torch.arange(8, dtype=torch.bfloat16).view(2, 4)[:, 3],
    "part of a larger one": torch.arange(100_000)[10:13],
}


def bits(tensor: torch.Tensor) -> bytes:
    return b"".join(bytes(element.clone().view(1).view(torch.uint8).tolist()) for element in tensor.reshape(-1))


def assert_same(got: Sequence[torch.Tensor], sent: Sequence[torch.Tensor]) -> None:
    for there, here in zip(got, sent, strict=True):
        assert (there.dtype, there.shape, bits(there)) == (here.dtype, here.shape, bits(here))


@pytest.mark.parametrize(
    "names",
    [
        *(pytest.param([name], id=name) for name in TENSORS),
        pytest.param([*TENSORS, *reversed(TENSORS)], id="many of a type"),
    ],
)
def test_every_bit_and_the_type_and_shape_arrive(names: list[str]) -> None:
    sent = [TENSORS[name] for name in names]
    assert_same(unpack(pack(sent)), sent)


def test_what_is_around_the_tensors_arrives_too() -> None:
    shared = torch.tensor([1, 2])
    sent = {"path": Path("a"), "rows": [(shared, None), (shared, "text")], "none": []}
    got = unpack(pack(sent))
    assert (got["path"], got["none"], got["rows"][0][1], got["rows"][1][1]) == (Path("a"), [], None, "text")
    assert got["rows"][0][0] is got["rows"][1][0]  # sent once
    assert_same([got["rows"][0][0]], [shared])


def test_what_arrives_is_a_copy_that_can_be_written_to() -> None:
    sent = [torch.zeros(3), torch.zeros(2)]
    got = unpack(pack(sent))
    got[0] += 1
    assert [t.tolist() for t in sent + got] == [[0, 0, 0], [0, 0], [1, 1, 1], [0, 0]]


def test_what_would_lose_its_graph_or_its_device_is_refused() -> None:
    with pytest.raises(TypeError, match=r"requires_grad=True.*detach"):
        pack([torch.zeros(1, requires_grad=True)])
    with pytest.raises(TypeError, match="on meta"):
        pack({"a": torch.zeros(1, device="meta")})


def test_no_more_is_sent_than_is_asked_for() -> None:
    assert len(pickle.dumps(pack(torch.arange(100_000)[10:13]))) < 700  # by torch: the whole 800 kB


def test_a_packed_value_is_read_by_unpack_alone() -> None:
    with pytest.raises(NotImplementedError, match="unpack"):
        pickle.loads(pack(torch.zeros(1)).value)


class Echo(WorkerActor):
    def __init__(self) -> None:
        self.worker = self

    def echo(self, items: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return list(items)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_groups_send_tensors_there_and_back():
    group = RayGroup("policy", [ray.remote(Echo).options(num_cpus=0).remote() for _ in range(2)])
    try:
        sent = list(TENSORS.values())
        back = group.map(Echo.echo, sent)
        assert_same(back, sent)
        back[0].zero_()  # not the read-only memory of Ray
    finally:
        group.close()
