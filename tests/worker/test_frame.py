"""Messages arrive as they were sent, in order, and without pickle."""

import pickle
from multiprocessing import Pipe

import numpy as np
import pytest

from polyclinic.worker.frame import Message, joined, receive, send


def test_a_message_arrives_as_it_was_sent() -> None:
    here, there = Pipe()
    tensors = {"b.x": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a.y": np.zeros((0, 4))}
    tensors["c.step"] = np.array(7.0)
    send(here, Message({"do": "train", "t": 3}, joined(state=tensors, personal={})))
    got = receive(there)
    assert got.head == {"do": "train", "t": 3}
    assert list(got.part("state")) == [
        "a.y",
        "b.x",
        "c.step",
    ]  # by name, whatever the order on the wire
    np.testing.assert_array_equal(got.part("state")["b.x"], tensors["b.x"])
    assert got.part("state")["a.y"].shape == (0, 4)
    assert got.part("state")["c.step"].shape == ()
    assert got.part("personal") == {}


def test_a_closed_end_is_an_end_of_file() -> None:
    here, there = Pipe()
    here.close()
    with pytest.raises(EOFError):
        receive(there)


def test_a_pickle_is_not_read() -> None:
    here, there = Pipe()
    here.send_bytes(pickle.dumps({"do": "train"}))
    with pytest.raises(ValueError, match=r"decode|JSON|Expecting"):
        receive(there)
