"""Tests checkpoint files: damaged ones are ignored, the last two of each trial are kept, and no code in them runs."""

import errno
import hashlib
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from sweep import checkpoints as module
from sweep.checkpoints import MAGIC, CheckpointFiles
from sweep.core import Checkpoint, Evaluation, Snapshot, Trial
from sweep.errors import InvalidValueError

LARGEST = 100_000
FLIPS = 1000 if os.environ.get("SWEEP_FAULTS") == "long" else 150
SHA = 32


def trial(number=0):
    return Trial(number, config=None, seed=0)


def checkpoint(step, number=0, size=400):
    """Return a unique checkpoint, with newlines in its state and in its record."""
    noise = random.Random(f"{number} {step}")
    evaluations = [Evaluation(number, at, {"val_loss": noise.random(), "global_step": at}) for at in range(0, step, 5)]
    state = Snapshot(step, b"\n" + noise.randbytes(size))
    return Checkpoint(0, 100, state, evaluations, noise.randbytes(size // 2) + b"\n\nend")


@pytest.fixture
def said():
    return []


@pytest.fixture
def files(tmp_path, said):
    return CheckpointFiles(tmp_path / "kept", "study", LARGEST, said.append)


@pytest.fixture
def again(files, said):
    """Return new checkpoint files for the same folder, as another command opens it."""
    return lambda of="study": CheckpointFiles(files.folder, of, LARGEST, said.append)


def names(files):
    return sorted(path.name for path in files.folder.iterdir())


# --- what is kept


def test_what_is_saved_is_what_is_found(files, again, said):
    assert files.latest(trial()) is None
    assert not files.holds(trial())
    files.save(trial(), checkpoint(7))
    assert files.holds(trial())
    for found in (files, again()):
        assert found.latest(trial()) == checkpoint(7)
    assert said == []


@pytest.mark.parametrize("changed", [{"state": Snapshot(0, b"")}, {"record": b""}, {"evaluations": []}, {"first": 5}])
def test_every_part_may_be_empty(files, again, changed):
    kept = Checkpoint(**{**checkpoint(9).__dict__, **changed})
    files.save(trial(), kept)
    assert again().latest(trial()) == kept


def test_it_is_its_owner_s_alone(files):
    before = os.umask(0)
    try:
        files.save(trial(), checkpoint(7))
        files.end(trial(), checkpoint(9))
    finally:
        os.umask(before)
    (path,) = files.final.folder.glob("*.checkpoint")
    assert path.stat().st_mode & 0o777 == 0o600
    assert files.final.folder.stat().st_mode & 0o777 == 0o700
    assert files.folder.stat().st_mode & 0o777 == 0o700


def test_the_last_two_are_kept_and_never_three(files):
    for step in (9, 10, 99, 100, 1000):
        files.save(trial(), checkpoint(step))
        assert len(names(files)) <= 2
    assert names(files) == ["0-0000000100.checkpoint", "0-0000001000.checkpoint"]


def test_a_third_that_a_crash_has_left_goes_with_the_next(files, again, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_remove", list)
        for step in (5, 10, 15):
            files.save(trial(), checkpoint(step))
    later = again()
    assert later.latest(trial()) == checkpoint(15)
    later.save(trial(), checkpoint(20))
    assert names(files) == ["0-0000000015.checkpoint", "0-0000000020.checkpoint"]


def test_each_trial_has_its_own(files, again):
    for step in (5, 10, 15):
        for number in (1, 11, 0):
            files.save(trial(number), checkpoint(step, number))
    assert len(names(files)) == 6
    for number in (1, 11, 0):
        assert again().latest(trial(number)) == checkpoint(15, number)


def test_the_same_step_again_is_not_written_again(files, monkeypatch):
    files.save(trial(), checkpoint(5))
    files.save(trial(), checkpoint(10))
    with monkeypatch.context() as patch:
        patch.setattr(module.atomic, "atomic_write", None)
        files.save(trial(), checkpoint(10))
    assert names(files) == ["0-0000000005.checkpoint", "0-0000000010.checkpoint"]


def test_a_training_that_goes_on_keeps_the_one_it_goes_on_from(files, again):
    for step in (5, 10):
        files.save(trial(), checkpoint(step))
    later = again()
    assert later.latest(trial()) == checkpoint(10)
    later.save(trial(), checkpoint(15))
    assert names(files) == ["0-0000000010.checkpoint", "0-0000000015.checkpoint"]


def test_a_training_that_begins_anew_replaces_what_is_damaged(files, again, said):
    """Its steps are smaller than those in the files of an earlier attempt."""
    for step in (50, 60):
        files.save(trial(), checkpoint(step))
    for path in files.folder.iterdir():
        path.write_bytes(b"")
    later = again()
    assert later.latest(trial()) is None
    later.save(trial(), checkpoint(5))
    assert names(files) == ["0-0000000005.checkpoint"]
    assert again().latest(trial()) == checkpoint(5)


def test_a_training_whose_record_did_not_go_on_is_not_confused_with_the_one_before(files, again):
    """It is found, but starts again because its record is gone; from then on its new checkpoints apply."""
    for step in (50, 60):
        files.save(trial(), checkpoint(step))
    later = again()
    later.latest(trial())
    later.end(trial(), None)
    for step in (20, 40, 60):
        later.save(trial(), checkpoint(step, number=0, size=77))
        assert again().latest(trial()) == checkpoint(step, size=77)


def test_saving_over_a_damaged_file_of_the_same_step_makes_it_whole(files, again):
    for step in (5, 10):
        files.save(trial(), checkpoint(step))
    (files.folder / "0-0000000010.checkpoint").write_bytes(b"damaged")
    later = again()
    assert later.latest(trial()) == checkpoint(5)
    later.save(trial(), checkpoint(10))
    assert again().latest(trial()) == checkpoint(10)
    assert len(names(files)) == 2


# --- the end


def test_of_a_trial_that_has_ended_nothing_is_left(files, again):
    for number in (0, 10):
        for step in (5, 10):
            files.save(trial(number), checkpoint(step, number))
    files.end(trial(), None)
    assert {name.partition("-")[0] for name in names(files)} == {"10"}
    assert again().latest(trial()) is None
    files.save(trial(), checkpoint(5))  # it may begin anew
    assert again().latest(trial()) == checkpoint(5)


def test_what_it_ended_with_is_kept_where_it_is_wanted_and_a_longer_training_stays(files, again):
    files.save(trial(), checkpoint(5))
    files.end(trial(), checkpoint(20))
    assert names(files) == ["final"]
    assert again().final.latest(trial()) == checkpoint(20)
    files.end(trial(), checkpoint(10))
    assert again().final.latest(trial()) == checkpoint(20)
    files.end(trial(), checkpoint(30))
    assert again().final.latest(trial()) == checkpoint(30)
    assert names(files.final) == ["0-0000000020.checkpoint", "0-0000000030.checkpoint"]
    (files.final.folder / "0-0000000030.checkpoint").write_bytes(b"damaged")
    assert again().final.latest(trial()) == checkpoint(20)


def test_a_sweep_removes_the_half_written_and_what_is_of_others(files):
    for number in (0, 1, 2):
        files.save(trial(number), checkpoint(5, number))
    half = files.folder / ".1-0000000010.checkpoint.tmp"
    half.write_bytes(b"half")
    other = files.folder / "notes.txt"
    other.write_text("mine")
    files.sweep([1])
    assert names(files) == ["1-0000000005.checkpoint", "notes.txt"]
    other.unlink()
    files.sweep()
    assert not files.folder.exists()
    files.sweep()  # nor is there anything to sweep where nothing is


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below", Path("/proc/x")):
        with pytest.raises(InvalidValueError, match=r"^train\.checkpoint_dir=.*: cannot be made"):
            CheckpointFiles(folder, "study", LARGEST).prepare()


# --- damage


def damaged(whole, at, kind, noise):
    """Return the bytes of a file with damage at a position."""
    before, byte, after = whole[:at], whole[at], whole[at + 1 :]
    if kind == "bit":
        return before + bytes([byte ^ 1 << noise.randrange(8)]) + after
    if kind == "byte":
        return before + bytes([(byte + noise.randrange(1, 256)) % 256]) + after
    if kind == "inserted":
        return before + noise.randbytes(noise.randrange(1, 9)) + whole[at:]
    return before + {"cut": b"", "zeros": bytes(len(whole) - at), "dropped": after}[kind]


def test_every_damage_is_noticed_and_said_and_the_one_before_is_used(files, again, said):
    """Each part of the file is damaged by a bit, a byte, or the loss of the rest."""
    for step in (10, 20):
        files.save(trial(), checkpoint(step))
    path = files.folder / "0-0000000020.checkpoint"
    whole = path.read_bytes()
    body = len(MAGIC) + SHA
    line = whole.index(b"\n", body) + 1
    record = line + len(checkpoint(20).state.content)
    parts = [(0, len(MAGIC)), (len(MAGIC), body), (body, line), (line, record), (record, len(whole))]
    noise = random.Random(5)
    for number in range(FLIPS):
        at = noise.randrange(*parts[number % len(parts)])
        kind = noise.choice(["bit", "byte", "cut", "zeros", "inserted", "dropped"])
        path.write_bytes(found := damaged(whole, at, kind, noise))
        assert found != whole
        said.clear()
        assert again().latest(trial()) == checkpoint(10), (kind, at)
        assert len(said) == 1, (kind, at)
        assert said[0].startswith(f"{path} is passed over: ")
    path.write_bytes(whole)
    assert again().latest(trial()) == checkpoint(20)


def test_two_damaged_are_said_both_and_none_is_used(files, again, said):
    for step in (10, 20):
        files.save(trial(), checkpoint(step))
    for path in files.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    later = again()
    assert later.latest(trial()) is None
    assert later.holds(trial())
    assert [line.partition(" is ")[0][-23:] for line in said] == ["0-0000000020.checkpoint", "0-0000000010.checkpoint"]


def test_what_is_of_another_training_is_passed_over(files, again, said):
    files.save(trial(), checkpoint(5))
    assert again("another").latest(trial()) is None
    assert said[-1].endswith("passed over: it is of another training")
    os.rename(files.folder / "0-0000000005.checkpoint", files.folder / "3-0000000005.checkpoint")
    assert again().latest(trial(3)) is None
    assert said[-1].endswith("passed over: it is of another training")


# --- hostile files


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


def sealed(about, *parts):
    """Return a file with a valid checksum."""
    body = b"".join([json.dumps(about).encode(), b"\n", *parts])
    return MAGIC + hashlib.sha256(body).digest() + body


ABOUT = {"of": "study", "number": 0, "first": 0, "last": 9, "step": 20, "evaluations": [], "state": 3}


def sparse(path):
    with path.open("wb") as file:
        file.truncate(10**12)


def link(path):
    target = path.parent.parent / "elsewhere"
    target.write_bytes((path.parent / "0-0000000010.checkpoint").read_bytes())
    path.symlink_to(target)


HOSTILE = {
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Hostile(path.parent.parent / "executed"))),
    "nothing": lambda path: path.write_bytes(b""),
    "a link": link,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a large sparse file": sparse,
    "of another": lambda path: path.write_bytes(sealed(ABOUT | {"of": "another"}, b"abc")),
    "no JSON": lambda path: path.write_bytes(MAGIC + hashlib.sha256(b"{").digest() + b"{"),
    "JSON of another kind": lambda path: path.write_bytes(sealed(["of", "number"])),
    "deep JSON": lambda path: path.write_bytes(MAGIC + hashlib.sha256(b"[" * 90_000).digest() + b"[" * 90_000),
    "no text": lambda path: path.write_bytes(MAGIC + hashlib.sha256(b"\xff\xfe\n").digest() + b"\xff\xfe\n"),
    "without a step": lambda path: path.write_bytes(sealed({k: v for k, v in ABOUT.items() if k != "step"}, b"abc")),
    "evaluations that are none": lambda path: path.write_bytes(sealed(ABOUT | {"evaluations": [5]}, b"abc")),
    "a length that is none": lambda path: path.write_bytes(sealed(ABOUT | {"state": "3"}, b"abc")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_none_of_ours_is_passed_over_and_not_executed(files, again, said, tmp_path, name):
    files.save(trial(), checkpoint(10))
    path = files.folder / "0-0000000020.checkpoint"
    HOSTILE[name](path)
    later = again()
    assert later.latest(trial()) == checkpoint(10)
    assert len(said) == 1
    assert said[0].startswith(f"{path} is passed over: ")
    assert not (tmp_path / "executed").exists()
    later.save(trial(), checkpoint(30))  # and the training goes on
    assert again().latest(trial()) == checkpoint(30)


def as_root(test):
    return pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such a file")(test)


@as_root
def test_a_file_of_another_user_is_passed_over(files, again, said):
    for step in (10, 20):
        files.save(trial(), checkpoint(step))
    os.chown(files.folder / "0-0000000020.checkpoint", 65534, 65534)
    assert again().latest(trial()) == checkpoint(10)
    assert said[0].endswith("it is no file of yours")


@as_root
def test_a_device_is_passed_over(files, again, said):
    files.save(trial(), checkpoint(10))
    try:
        os.mknod(files.folder / "0-0000000020.checkpoint", 0o20600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("no device can be made here")
    assert again().latest(trial()) == checkpoint(10)
    assert len(said) == 1


def hostile_pickle(mark):
    file = io.BytesIO()
    torch.save({"model": Hostile(mark)}, file)
    return file.getvalue()


def zip_bomb(mark):
    """Return a file as torch saves it, but with compressed entries."""
    plain, bomb = io.BytesIO(), io.BytesIO()
    torch.save({"model": torch.zeros(2**16)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return bomb.getvalue()


STATES = {
    "a hostile pickle": hostile_pickle,
    "a zip bomb": zip_bomb,
    "a bare pickle": lambda m: pickle.dumps(Hostile(m)),
}


@pytest.mark.parametrize("name", STATES)
def test_a_whole_file_with_a_hostile_state_is_read_and_its_state_refused(files, again, tmp_path, name):
    from sweep.training import state_io

    mark = tmp_path / "executed"
    files.save(trial(), Checkpoint(0, 9, Snapshot(5, STATES[name](mark)), [], b""))
    found = again().latest(trial())
    with pytest.raises(InvalidValueError, match=r"^train\.checkpoint_dir=.*cannot be read"):
        state_io.unpacked(found.state, trial(), None, torch.device("cpu"))
    assert not mark.exists()


# --- writes that fail


def failing(real, at):
    """Return a function that raises ENOSPC at call number `at`, counted from 0."""
    calls = iter(range(1000))

    def call(*arguments, **keys):
        if next(calls) == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **keys)

    return call


class Full:
    """A file that accepts a part of the data and then no more."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FAULTS = {
    "open": lambda patch: patch.setattr(os, "open", failing(os.open, 0)),
    "write": lambda patch: patch.setattr(os, "fdopen", lambda *given, real=os.fdopen: Full(real(*given))),
    "fsync": lambda patch: patch.setattr(os, "fsync", failing(os.fsync, 0)),
    "replace": lambda patch: patch.setattr(os, "replace", failing(os.replace, 0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_that_fails_leaves_what_was_there(files, again, said, monkeypatch, fault):
    for step in (5, 10):
        files.save(trial(), checkpoint(step))
    before = {path.name: path.read_bytes() for path in files.folder.iterdir()}
    with monkeypatch.context() as patch:
        FAULTS[fault](patch)
        with pytest.raises(OSError, match="No space left") as raised:
            files.save(trial(), checkpoint(15))
    assert raised.value.filename
    assert {path.name: path.read_bytes() for path in files.folder.iterdir()} == before
    assert again().latest(trial()) == checkpoint(10)
    assert said == []
    files.save(trial(), checkpoint(15))  # once there is room
    assert again().latest(trial()) == checkpoint(15)
    assert names(files) == ["0-0000000010.checkpoint", "0-0000000015.checkpoint"]


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_brought_to_the_disk_leaves_a_whole_one(files, again, monkeypatch, call):
    """The new file already has its name; whichever file is found is complete."""
    files.save(trial(), checkpoint(5))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), 1))
        with pytest.raises(OSError, match="No space left"):
            files.save(trial(), checkpoint(10))
    assert not list(files.folder.glob(".*"))
    assert again().latest(trial()) in (checkpoint(5), checkpoint(10))
    files.save(trial(), checkpoint(15))
    assert again().latest(trial()) == checkpoint(15)


def test_what_another_left_half_written_at_the_same_place_is_no_obstacle(files, again, tmp_path):
    files.prepare()
    target = tmp_path / "target"
    target.write_text("mine")
    (files.folder / "0-0000000005.checkpoint.tmp").symlink_to(target)
    files.save(trial(), checkpoint(5))
    assert again().latest(trial()) == checkpoint(5)
    assert target.read_text() == "mine"
    assert names(files) == ["0-0000000005.checkpoint"]
