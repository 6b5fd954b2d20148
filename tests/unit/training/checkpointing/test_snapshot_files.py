"""Snapshots: whole or not at all, and no more of them than wanted."""

import errno
import os

import pytest
import torch

from twigkit import TrainingError
from twigkit.training.checkpointing import snapshot_files as snapshot
from twigkit.training.checkpointing.snapshot_files import (
    RunState,
    SnapshotHeader,
    Snapshots,
    folder_lock,
)

TENSORS = {"parameter.a": torch.arange(6.0).view(2, 3), "first.a": torch.ones(2, 3).bfloat16()}


def record(step, **state):
    return SnapshotHeader(RunState(step=step, **state), {"spec": {"seed": 1}})


@pytest.fixture
def snapshots(tmp_path):
    return Snapshots(tmp_path / "training", keep=2)


def names(snapshots):
    return sorted(path.name for path in snapshots.folder.iterdir())


def test_a_snapshot_comes_back_as_it_was(snapshots):
    assert snapshots.steps == []
    given = record(7, best=0.1 + 0.2, best_step=3, stale=2, window={"sums": {"loss": 1 / 3}})
    path = snapshots.save(TENSORS, given)
    assert snapshots.steps == [7]
    assert snapshots.read_header(7) == given
    back = snapshots.read(path)
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_the_newest_are_kept_and_the_best_that_they_name(snapshots):
    for step in (2, 4, 6, 8):
        best = {2: 2, 4: 4, 6: 4, 8: 8}[step]
        if best == step:
            snapshots.save_best(TENSORS, step)
        snapshots.save(TENSORS, record(step, best=1.0, best_step=best))
    assert names(snapshots) == [
        "best-00000004.safetensors",
        "best-00000008.safetensors",
        "snapshot-00000006.safetensors",
        "snapshot-00000008.safetensors",
    ]


def test_what_a_killed_run_was_writing_is_cleared_away(snapshots):
    left = snapshots.folder / "writing"
    left.mkdir(parents=True)
    (left / "snapshot-00000009.safetensors").write_bytes(b"half")
    assert snapshots.steps == []
    snapshots.save(TENSORS, record(1))
    assert names(snapshots) == ["snapshot-00000001.safetensors"]


@pytest.mark.parametrize("where", ["save_file", "_force"])
def test_a_full_disk_leaves_the_snapshot_before(snapshots, monkeypatch, where):
    snapshots.save(TENSORS, record(5))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot, where, full)
    with pytest.raises(TrainingError) as caught:
        snapshots.save(TENSORS, record(10))
    told = str(caught.value)
    assert "snapshot-00000010.safetensors" in told
    assert "No space left on device" in told
    assert "the snapshot of step 5 is intact" in told
    assert snapshots.read_header(5) == record(5)
    assert names(snapshots) == ["snapshot-00000005.safetensors"]


def test_a_file_that_grows_too_large_is_told_like_a_full_disk(snapshots):
    """The disk's own refusal, without a hand in the code."""
    resource = pytest.importorskip("resource")
    snapshots.save(TENSORS, record(5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(TrainingError, match=r"too large.*the snapshot of step 5 is intact"):
            snapshots.save({"parameter.a": torch.zeros(100_000)}, record(10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(snapshots) == ["snapshot-00000005.safetensors"]


def test_a_damaged_snapshot_is_named_with_the_way_out(snapshots):
    path = snapshots.save(TENSORS, record(5))
    path.write_bytes(path.read_bytes()[:-3])
    for read in (lambda: snapshots.read_header(5), lambda: snapshots.read(path)):
        with pytest.raises(TrainingError, match=r"snapshot-00000005.* is damaged.*remove it"):
            read()


def test_a_snapshot_of_another_format_is_refused(snapshots, monkeypatch):
    monkeypatch.setattr(snapshot, "FORMAT", 99)
    snapshots.save(TENSORS, record(5))
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="has format 99, this twigkit reads format 2"):
        snapshots.read_header(5)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    pytest.importorskip("fcntl")

    def second():
        """Whether another process is refused."""
        child = os.fork()
        if not child:
            try:
                with folder_lock(tmp_path / "run"):
                    os._exit(0)
            except TrainingError as error:
                os._exit(1 if "another run is at work" in str(error) else 2)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert second() == 0
    with folder_lock(tmp_path / "run"):
        assert second() == 1
        # A worker that outlives the run does not keep its successor out.
        reader, writer = os.pipe()
        worker = os.fork()
        if not worker:
            os.read(reader, 1)
            os._exit(0)
    assert second() == 0
    os.write(writer, b".")
    os.waitpid(worker, 0)


def test_files_with_other_digits_in_their_names_are_no_snapshots(snapshots):
    snapshots.save(TENSORS, record(7))
    for name in ("snapshot-²³.safetensors", "snapshot-٣.safetensors", "snapshot-7.safetensors"):
        (snapshots.folder / name).touch()
    assert snapshots.steps == [7]


@pytest.mark.parametrize("place", ["header", "first", "middle", "last", "zeros"])
def test_one_flipped_bit_is_noticed(snapshots, place):
    path = snapshots.save({"parameter.a": torch.arange(4096.0)}, record(5, window={"step": 1}))
    data = bytearray(path.read_bytes())
    start = len(data) - 4 * 4096
    spot = {"header": data.index(b'stale\\": 0') + 9, "first": start, "last": len(data) - 1}
    if place == "zeros":
        data[start + 4096 : start + 8192] = bytes(4096)
    else:
        data[spot.get(place, start + 8191)] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"damaged .its SHA-256.*remove it"):
        snapshots.read(path)


def test_the_best_parameters_have_a_checksum_too(snapshots):
    path = snapshots.save_best(TENSORS, 5)
    assert snapshots.read(path).keys() == TENSORS.keys()
    data = bytearray(path.read_bytes())
    data[-1] ^= 64
    path.write_bytes(data)
    with pytest.raises(TrainingError, match="damaged"):
        snapshots.read(path)
