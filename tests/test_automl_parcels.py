"""Objects come out of a pipe as they went in, whatever arrays they hold."""

import gc
import os
import socket
import sys
import threading
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from tasklore.apps.automl import parcels

Pipe = Connection
Ends = tuple[Any, Any]


@pytest.fixture
def ends() -> Generator[Ends]:
    one, other = socket.socketpair()
    with Connection(one.detach()) as near, Connection(other.detach()) as far:
        yield near, far


def through(ends: Ends, parcel: object) -> Any:
    sender = threading.Thread(target=parcels.send, args=(ends[0], parcel))
    sender.start()
    received, size = parcels.receive(ends[1])
    sender.join()
    assert size > 0
    return received


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24.0).reshape(4, 6)[::2, ::3],
        np.empty((0, 3), np.float32),
        np.array(3, np.int64),
        np.array(["a", None], dtype=object),
        np.zeros(7, dtype=[("node", np.int64), ("share", np.float32)]),
    ],
    ids=["rows", "columns", "strides", "empty", "scalar", "objects", "records"],
)
def test_arrays_of_every_kind(ends: Ends, array: np.ndarray) -> None:
    found, text, other = through(ends, (array, "text", np.ones(5)))
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape, text) == (array.dtype, array.shape, "text")
    np.testing.assert_array_equal(other, np.ones(5))


def test_what_has_arrived_keeps_no_file_open(ends: Ends) -> None:
    before = len(os.listdir("/dev/fd"))
    kept = [through(ends, np.full(5000, place)) for place in range(20)]
    assert len(os.listdir("/dev/fd")) == before
    assert all((array == place).all() for place, array in enumerate(kept))
    kept[3][:] = -1.0  # one's own copy
    assert kept[4][0] == 4


def test_what_holds_no_array(ends: Ends) -> None:
    assert through(ends, {"a": [1, 2.5, None]}) == {"a": [1, 2.5, None]}
    assert through(ends, b"") == b""


def test_several_follow_one_another(ends: Ends) -> None:
    sent = [np.full(50_000, number) for number in range(4)]
    for array in sent:
        np.testing.assert_array_equal(through(ends, array), array)


def test_what_arrives_is_ones_own(ends: Ends) -> None:
    """It may be written to, and the sender does not see that."""
    array = np.zeros(1000)
    found = through(ends, array)
    found[:] = 1.0
    assert not array.any()
    assert found.flags.writeable


@pytest.mark.parametrize("parcel", [np.zeros(100_000), "x" * 800_000], ids=["array", "text"])
def test_its_size_is_told(ends: Ends, parcel: object) -> None:
    sender = threading.Thread(target=parcels.send, args=(ends[0], parcel))
    sender.start()
    _, size = parcels.receive(ends[1])
    sender.join()
    assert 800_000 <= size < 802_000


def test_models_predict_the_same(ends: Ends) -> None:
    x = np.random.default_rng(0).normal(size=(200, 4))
    forest = RandomForestClassifier(5, random_state=0).fit(x, x[:, 0] > 0)
    found = through(ends, forest)
    np.testing.assert_array_equal(found.predict_proba(x), forest.predict_proba(x))


@pytest.mark.skipif(sys.platform != "linux", reason="counts this process's descriptors in /proc")
def test_nothing_stays_open(ends: Ends) -> None:
    through(ends, np.ones(1000))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        through(ends, np.ones(1000))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_end_that_hangs_up(ends: Ends) -> None:
    near, far = ends
    near.send((b"", [(0, 8)]))  # an array is announced, and does not come
    near.close()
    with pytest.raises(EOFError, match="hung up"):
        parcels.receive(far)
    with pytest.raises(EOFError):
        parcels.receive(far)
    with pytest.raises(OSError, match=r"."):
        parcels.send(far, np.ones(10))
