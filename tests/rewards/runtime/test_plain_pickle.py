"""Tests pickled messages of servers that are not trusted."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from builders import Attack

from rewards.runtime import plain_pickle


def test_a_message_cannot_run_code(tmp_path: Path) -> None:
    attack = Attack(tmp_path / "attacked")
    with pytest.raises(ValueError, match=r"the message names \w+\.mkdir"):
        plain_pickle.loads(pickle.dumps({"outputs": [attack]}))
    with pytest.raises(ValueError, match="the message names"):
        plain_pickle.loads(pickle.dumps(np.array([attack], dtype=object)))
    assert not (tmp_path / "attacked").exists()


def test_a_message_that_asks_for_too_much_memory_is_an_error() -> None:
    """The messages have an array of 2^62 bytes without its content, and a dictionary with a key that has no hash."""
    for message in (b"cnumpy\nndarray\n(I4611686018427387904\ntR.", b"(d]NsS."):
        with pytest.raises(ValueError, match="no pickle of plain values"):
            plain_pickle.loads(message)


@pytest.mark.parametrize("message", [b"", b"{}", b"\x80\x04", pickle.dumps([1])[:-1]])
def test_an_answer_that_is_no_pickle_is_an_error(message: bytes) -> None:
    with pytest.raises(ValueError, match="no pickle of plain values"):
        plain_pickle.loads(message)


def test_arrays_and_numbers_are_read() -> None:
    values = {"a": np.arange(3, dtype=np.float32), "b": [np.float64(0.5), 1, None, True], "c": "text"}
    found = plain_pickle.loads(pickle.dumps(values))
    assert found["a"].tolist() == [0.0, 1.0, 2.0] and found["b"] == [0.5, 1, None, True] and found["c"] == "text"
