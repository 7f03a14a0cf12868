"""Artifacts: what is saved comes back, whole and unchanged, or not at all."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasklore.artifacts import file_checksum, load_artifact, save_artifact
from tasklore.canonical import digest
from tasklore.errors import DamagedArtifact, InvalidData, StoreError
from tasklore.files import replacing

TENSORS = {"net.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4), "net.bias": torch.zeros(3)}
METADATA = {"learner": {"name": "maml", "step_size": 0.4}, "labels": ["a", "b"]}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    tensors = {"matrix": values, "view": values.t()[1:], "scalar": values[0, 0], "empty": values[:0]}
    save_artifact(tmp_path / "a.safetensors", tensors, {}, "prior")
    loaded, _ = load_artifact(tmp_path / "a.safetensors", "prior")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name], tensor)


def test_special_floats_and_arrays_and_metadata(tmp_path: Path) -> None:
    special = torch.tensor([torch.nan, torch.inf, -0.0, 5e-324], dtype=torch.float64, requires_grad=True)
    array = np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::-1]
    metadata = {"text": 'é "\\ \u2028', "deep": [{"a": [1, 2.5, None, True]}], "big": 10**30}
    save_artifact(tmp_path / "a", {"special": special, "array": array}, metadata, "prior")
    loaded, told = load_artifact(tmp_path / "a", "prior")
    assert loaded["special"].numpy().tobytes() == special.detach().numpy().tobytes()
    assert np.array_equal(loaded["array"].numpy(), array)
    assert told == metadata


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    """Also in another process: a resumed run must remember the checksum that an uninterrupted one would."""
    checksum = save_artifact(tmp_path / "a", TENSORS, METADATA, "prior")
    tensors, metadata = dict(reversed(TENSORS.items())), dict(reversed(METADATA.items()))
    backwards = save_artifact(tmp_path / "b", tensors, metadata, "prior")
    script = (
        "import sys, torch\nfrom tasklore.artifacts import save_artifact\n"
        "w = torch.arange(12, dtype=torch.float32).reshape(3, 4)\n"
        "t = {'net.weight': w, 'net.bias': torch.zeros(3)}\n"
        "m = {'learner': {'name': 'maml', 'step_size': 0.4}, 'labels': ['a', 'b']}\n"
        "print(save_artifact(sys.argv[1], t, m, 'prior'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c")], capture_output=True, text=True, check=True
    )
    assert checksum == backwards == done.stdout.strip() == file_checksum(tmp_path / "a")
    assert checksum == digest((tmp_path / "a").read_bytes())


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    save_artifact(tmp_path / "a", TENSORS, METADATA, "prior")
    with safetensors.safe_open(tmp_path / "a", "pt") as file:
        assert set(file.keys()) == set(TENSORS)
        assert json.loads(file.metadata()["tasklore"])["metadata"] == METADATA


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"a": [1.0]}, {}),
        ({1: torch.zeros(1)}, {}),
        ({"__metadata__": torch.zeros(1)}, {}),
        ({"a\0": torch.zeros(1)}, {}),
        ({"a": np.array(["text"])}, {}),
        ({"a": np.array([object()])}, {}),
        ({"a": torch.eye(2).to_sparse()}, {}),
        ({"a": torch.zeros(2, device="meta")}, {}),
        ({}, {"rate": float("nan")}),
        ({}, {"code": print}),
    ],
)
def test_what_cannot_be_saved_exactly_is_refused(tmp_path: Path, tensors: Any, metadata: Any) -> None:
    with pytest.raises(InvalidData):
        save_artifact(tmp_path / "a", tensors, metadata, "prior")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    save_artifact(tmp_path / "a", TENSORS, METADATA, "prior")
    (tmp_path / "a").chmod(0)
    with pytest.raises(DamagedArtifact, match="may not be read by this user"):
        load_artifact(tmp_path / "a", "prior")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        save_artifact(tmp_path / "folder", TENSORS, METADATA, "prior")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(StoreError, match="cannot be written"):
        save_artifact("/proc/nowhere/a", TENSORS, METADATA, "prior")


def test_a_killed_save_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """A process that saves without pause is killed again and again: the file is always whole."""
    script = (
        "import sys, torch\nfrom tasklore.artifacts import save_artifact\n"
        "for number in range(10**6):\n"
        "    tensors = {'w': torch.full((200_000,), float(number))}\n"
        "    save_artifact(sys.argv[1], tensors, {'number': number}, 'prior')\n"
        "    print(number, flush=True)"
    )
    for pause in (0.0, 0.01, 0.02, 0.05):
        saver = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
        )
        assert saver.stdout is not None
        saver.stdout.readline()
        time.sleep(pause)
        saver.kill()
        saver.communicate()
        tensors, metadata = load_artifact(tmp_path / "a", "prior")
        assert torch.equal(tensors["w"], torch.full((200_000,), float(metadata["number"])))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("flip") / "a"
    save_artifact(path, TENSORS, METADATA, "prior")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact):
        load_artifact(path, "prior")


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path, version: int) -> None:
    path = tmp_path / "honest.safetensors"
    for padding in range(0, 1400, 4):  # find metadata whose header length starts with the bytes 80 0N
        save_artifact(path, {}, {"padding": "x" * padding}, kind="check")
        if path.read_bytes()[:2] == bytes([0x80, version]):
            break
    else:
        pytest.fail("no header has that length")
    _, metadata = load_artifact(path, kind="check")
    assert metadata == {"padding": "x" * padding}


def test_a_link_is_followed_and_a_device_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    with replacing(link) as file:
        file.write(b"x")
    assert link.is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"x"
    terminal, other = os.openpty()
    try:
        with replacing(Path(os.ttyname(other))) as file:
            file.write(b"hello\n")
        assert os.read(terminal, 100).startswith(b"hello")
        assert Path(os.ttyname(other)).is_char_device()
    finally:
        os.close(terminal)
        os.close(other)
