"""Tests that checkpoints are complete or missing, and that the last ones and the best are kept."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from unigrpo import CheckpointError
from unigrpo.runs.checkpoints import CheckpointStore, read
from unigrpo.runs.errors import OutputError


def write_weights(folder: Path) -> None:
    (folder / "policy").mkdir()
    (folder / "policy" / "weights.bin").write_bytes(b"0123456789")


def save(store: CheckpointStore, step: int, metric: float | None = None) -> Path:
    return store.save(step, {"step": step}, write_weights, metric)


def test_the_newest_complete_checkpoint_is_found(tmp_path):
    store = CheckpointStore(tmp_path, max_num=3)
    for step in (2, 4, 10):
        save(store, step)
    found = store.latest()
    assert found is not None
    assert (found.step, found.state) == (10, {"step": 10})


def test_a_new_folder_has_no_checkpoint(tmp_path):
    assert CheckpointStore(tmp_path / "absent", max_num=1).latest() is None


def test_after_a_killed_write_the_older_checkpoint_is_used(tmp_path):
    store = CheckpointStore(tmp_path, max_num=3)
    save(store, 2)

    def killed(folder: Path) -> None:
        write_weights(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(4, {}, killed)
    found = store.latest()
    assert found is not None
    assert found.step == 2
    assert save(store, 4).exists()
    assert not list(tmp_path.glob(".writing_*"))


@pytest.mark.parametrize(
    "damage", ["truncated", "missing", "no mark", "cut mark", "odd mark", "other mark", "changed"]
)
def test_a_damaged_checkpoint_is_skipped_and_reading_it_says_what_is_wrong(tmp_path, damage):
    store = CheckpointStore(tmp_path, max_num=3)
    save(store, 2)
    newest = save(store, 4)
    weights = newest / "policy" / "weights.bin"
    if damage == "truncated":
        weights.write_bytes(b"01234")
    elif damage == "changed":
        weights.write_bytes(b"0123056789")
    elif damage == "missing":
        weights.unlink()
    else:
        mark = newest / "complete.json"
        whole = mark.read_text()
        mark.unlink()
        if damage != "no mark":
            odd = {"cut mark": whole[:3], "odd mark": '{"files": 3, "step": 4, "state": {}}'}
            mark.write_text(odd.get(damage, whole.replace('"step": 4', '"step": 2')))
    found = CheckpointStore(tmp_path, max_num=3).latest()  # like a resumed run
    assert found is not None
    assert found.step == 2
    expected = {
        "changed": "weights.bin is damaged",
        "truncated": "has 5 bytes, expected 10",
        "missing": "weights.bin is missing",
        "no mark": r"complete.json: cannot be read \(No such file",
        "cut mark": r"complete.json: is no JSON \(Expecting",
        "odd mark": "complete.json: files is 3, expected an object",
        "other mark": "complete.json is that of step 2",
    }
    with pytest.raises(ValueError, match=expected[damage]):
        read(newest)


def test_if_no_checkpoint_is_complete_the_run_does_not_start_again(tmp_path):
    store = CheckpointStore(tmp_path, max_num=3)
    (save(store, 2) / "policy" / "weights.bin").unlink()
    with pytest.raises(
        ValueError, match=r"no checkpoint is complete \(step_00000002: policy/weights.bin is missing\)"
    ):
        CheckpointStore(tmp_path, max_num=3).latest()


def test_a_checkpoint_of_version_0_1_which_states_sizes_alone_is_read(tmp_path):
    mark = save(CheckpointStore(tmp_path, max_num=3), 2) / "complete.json"
    content = json.loads(mark.read_text())
    assert content["files"] == {
        "policy/weights.bin": {"bytes": 10, "sha256": hashlib.sha256(b"0123456789").hexdigest()}
    }
    mark.write_text(json.dumps({**content, "files": {"policy/weights.bin": 10}}))
    found = CheckpointStore(tmp_path, max_num=3).latest()
    assert found is not None
    assert found.step == 2


def test_a_full_disk_is_named_and_leaves_nothing_of_the_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, max_num=3)
    save(store, 2)
    usage = shutil.disk_usage(tmp_path)

    def full(folder: Path) -> None:
        write_weights(folder)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
        # The message of torch.save.
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with pytest.raises(
        OutputError, match=r"checkpoint of step 4 .*disk of .* or its quota is full .*free some space, then"
    ):
        store.save(4, {}, full)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000002"]


def test_errors_without_a_cause_on_the_disk_do_not_change(tmp_path):
    def fails(folder: Path) -> None:
        raise RuntimeError("policy worker 0 died")

    with pytest.raises(RuntimeError, match=r"^policy worker 0 died$"):
        CheckpointStore(tmp_path, max_num=3).save(4, {}, fails)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_made_anew", [False, True], ids=["", "and another worker makes it anew"])
def test_a_missing_directory_is_named(tmp_path, is_made_anew):
    def deletes(folder: Path) -> None:
        shutil.rmtree(tmp_path / "checkpoints")
        if is_made_anew:
            (folder / "optimizer").mkdir(parents=True)
        (folder / "policy" / "model.safetensors").write_bytes(b"1")

    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(OutputError, match=r"checkpoints was deleted or moved during the run"):
        CheckpointStore(tmp_path / "checkpoints", max_num=3).save(4, {}, deletes)


def test_a_directory_that_is_deleted_and_made_again_without_an_error_is_named(tmp_path):
    """Ranks make folders with all their parents, so that no write fails."""

    def moves_and_writes(folder: Path) -> None:
        (tmp_path / "checkpoints").rename(tmp_path / "moved")
        folder.mkdir(parents=True)
        write_weights(folder)

    with pytest.raises(OutputError, match=r"could not be kept: .*checkpoints was deleted or moved during the run"):
        CheckpointStore(tmp_path / "checkpoints", max_num=3).save(4, {}, moves_and_writes)


def test_a_directory_that_was_deleted_between_two_checkpoints_is_named(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints", max_num=3)
    store.save(1, {}, write_weights)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(OutputError, match=r"checkpoints was deleted or moved during the run"):
        store.save(2, {}, write_weights)
    assert list(tmp_path.iterdir()) == []


def test_the_last_two_and_the_best_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, max_num=2)
    for step, metric in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.4), (5, None)):
        save(store, step, metric)
    assert sorted(f.name for f in tmp_path.glob("step_*")) == ["step_00000002", "step_00000004", "step_00000005"]
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "step_00000002"


def test_folders_of_a_user_are_neither_read_nor_deleted(tmp_path):
    store = CheckpointStore(tmp_path, max_num=1)
    save(store, 2).rename(tmp_path / "step_00000002_kept")
    shutil.copytree(tmp_path / "step_00000002_kept", tmp_path / "step_old")
    save(store, 1)
    found = CheckpointStore(tmp_path, max_num=1).latest()
    assert found is not None
    assert found.step == 1
    save(store, 3)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step_00000002_kept", "step_00000003", "step_old"]


def test_a_damaged_name_of_the_best_checkpoint_is_found_before_a_run_resumes(tmp_path):
    save(CheckpointStore(tmp_path, max_num=2), 2, metric=0.5)
    (tmp_path / "best.json").write_text('{"checkpoint": "step_000')
    with pytest.raises(CheckpointError, match=r"best.json: is no JSON \(Unterminated .*; restore the file, or delete"):
        CheckpointStore(tmp_path, max_num=2).latest()


def test_too_little_disk_space_for_a_checkpoint_is_an_error_before_the_write(tmp_path):
    def write(folder):
        raise AssertionError("written")

    store = CheckpointStore(tmp_path, 2, expected_bytes=10**18)
    with pytest.raises(
        OutputError, match=r"checkpoint of step 1 could not be written: the disk .* 1000000000.00 GB are"
    ):
        store.save(1, {}, write)
    assert not list(tmp_path.iterdir())


def test_the_next_checkpoint_is_expected_to_have_the_size_of_the_last_one(tmp_path, monkeypatch):
    def write(folder):
        (folder / "weights.bin").write_bytes(bytes(1000))

    store = CheckpointStore(tmp_path, 2)
    asked = []
    monkeypatch.setattr("unigrpo.runs.checkpoints.check_room", lambda folder, num_bytes: asked.append(num_bytes))
    store.save(1, {}, write)
    store.save(2, {}, write)
    assert asked == [0, 1000]
