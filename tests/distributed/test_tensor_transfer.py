"""Tensors on their way between processes: every bit, every type, and no more than is asked for."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence

import pytest
import ray
import torch
from ray import cloudpickle

from unigrpo.distributed.host import Host
from unigrpo.distributed.ray_group import RayGroup
from unigrpo.distributed.tensor_transfer import from_bytes, to_bytes

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


@pytest.mark.parametrize("name", TENSORS)
def test_every_bit_and_the_type_and_shape_arrive(name):
    sent = TENSORS[name]
    got = from_bytes(to_bytes(sent))
    assert (got.dtype, got.shape, bits(got)) == (sent.dtype, sent.shape, bits(sent))


def test_what_arrives_is_a_copy_that_can_be_written_to():
    sent = torch.zeros(3)
    got = from_bytes(to_bytes(sent))
    got += 1
    assert (sent.sum(), got.sum()) == (0, 3)


def test_what_would_lose_its_graph_or_its_device_is_refused():
    with pytest.raises(TypeError, match=r"requires_grad=True.*detach"):
        to_bytes(torch.zeros(1, requires_grad=True))
    with pytest.raises(TypeError, match="on meta"):
        to_bytes(torch.zeros(1, device="meta"))


class Echo(Host):
    def __init__(self) -> None:
        self.worker = self

    def echo(self, items: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return list(items)

    def size(self, items: Sequence[torch.Tensor]) -> list[int]:
        """Bytes of each on its way from the worker."""
        return [len(pickle.dumps(item)) for item in items]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_groups_send_tensors_there_and_back():
    group = RayGroup("policy", [ray.remote(Echo).options(num_cpus=0).remote() for _ in range(2)])
    try:
        sent = list(TENSORS.values())
        for here, back in zip(sent, group.map(Echo.echo, sent), strict=True):
            assert (back.dtype, back.shape, bits(back)) == (here.dtype, here.shape, bits(here))
        assert max(group.map(Echo.size, [torch.arange(100_000)[10:13]] * 2)) < 500  # by torch: the whole 800 kB
    finally:
        group.close()
