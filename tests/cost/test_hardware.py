"""Tests how the kind of a GPU is found by the name and memory that the driver reports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unigrpo.cost.hardware import DEFAULT, KINDS, find_hardware


@pytest.mark.parametrize(
    ("name", "gigabytes", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", 42.5, "a100_40gb"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "a100_80gb"),
        ("NVIDIA H100 80GB HBM3", 85.0, "h100_80gb"),
        ("NVIDIA H200", 150.1, "h200"),
        ("NVIDIA B200", 191.4, "b200"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 42.2, DEFAULT),  # no GPU of this name has so little memory
        ("NVIDIA L4", 24.0, DEFAULT),
    ],
)
def test_a_gpu_is_identified_by_its_name_and_memory(monkeypatch, name, gigabytes, kind):
    found = SimpleNamespace(name=name, total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    assert find_hardware("auto") is KINDS[kind]


def test_without_a_gpu_the_default_is_assumed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_hardware("auto") is KINDS[DEFAULT]
