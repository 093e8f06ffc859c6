"""Parameters and states on disk."""

import pickle
from pathlib import Path

import pytest
import torch

from unetpipe.checkpoints import (
    forget_checkpoints,
    read_checkpoint,
    read_latest_checkpoint,
    read_metadata,
    read_public_file,
    read_weights,
    write_checkpoint,
    write_weights,
)
from unetpipe.errors import StoreError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    digest = write_weights(tmp_path / "w.safetensors", TENSORS)
    found = read_weights(tmp_path / "w.safetensors", digest=digest)
    assert all(torch.equal(found[k], TENSORS[k]) and found[k].dtype == TENSORS[k].dtype for k in TENSORS)
    assert write_weights(tmp_path / "again.safetensors", TENSORS) == digest


def test_every_flipped_bit_and_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    digest = write_weights(path, TENSORS)
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        with pytest.raises(StoreError, match="damaged"):
            read_weights(path, digest=digest)
        path.write_bytes(good[:position])
        with pytest.raises(StoreError):
            read_weights(path, digest=digest)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "executed"),)

    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    import hashlib

    with pytest.raises(StoreError, match="safetensors"):
        read_weights(path, digest=hashlib.sha256(path.read_bytes()).hexdigest())
    assert not (tmp_path / "executed").exists()


def test_metadata_stand_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    digest = write_weights(path, TENSORS, metadata={"µ": "1\n2"})
    assert read_metadata(path) == {"µ": "1\n2"}
    assert read_weights(path, digest=digest).keys() == TENSORS.keys()
    write_weights(path, TENSORS)
    assert read_metadata(path) == {}
    path.write_bytes(b"no")
    with pytest.raises(StoreError, match="safetensors"):
        read_metadata(path)


@pytest.mark.parametrize("new", [True, False])
def test_a_file_from_outside_is_read_or_refused_whatever_is_wrong_with_it(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "public.pth"
    torch.save(TENSORS | {"mask_values": [0, 1]}, path, _use_new_zipfile_serialization=new)
    found = read_public_file(path)
    assert isinstance(found, dict)
    assert torch.equal(found["a"], TENSORS["a"]) and found["mask_values"] == [0, 1]
    good, refused = path.read_bytes(), 0
    for position in range(0, len(good), 5):
        path.write_bytes(good[:position] + bytes([good[position] ^ 16]) + good[position + 1 :])
        try:
            read_public_file(path)
        except StoreError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_two_are_kept_and_the_last_is_read(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        write_checkpoint(tmp_path, step, {"w": torch.tensor(float(step))}, {"step": step})
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "step-000000020.safetensors",
        "step-000000100.safetensors",
    ]
    found = read_latest_checkpoint(tmp_path)
    assert found is not None
    assert found[0]["w"].item() == 100
    assert found[1] == {"step": 100}


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "card"])
def test_a_damaged_one_falls_back_to_the_one_before(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, step, TENSORS, {"step": step})
    last = tmp_path / "step-000000002.safetensors"
    if harm == "flip":
        content = bytearray(last.read_bytes())
        content[-1] ^= 1
        last.write_bytes(bytes(content))
    elif harm == "truncate":
        last.write_bytes(last.read_bytes()[:50])
    elif harm == "delete":
        last.unlink()
    else:
        last.with_suffix(".json").write_text('{"sha')
    found = read_latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}
    assert [message.partition("); ")[2] for message in caplog.messages] == ["falling back to the one before"]


def test_where_none_is_left_the_last_warning_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, step, TENSORS, {"step": step}, owner="me")
    assert read_latest_checkpoint(tmp_path, owner="you") is None
    said = [message.partition("); ")[2] for message in caplog.messages]
    assert said == ["falling back to the one before", "none is left to go on from"]


def test_none_is_none(tmp_path: Path) -> None:
    assert read_latest_checkpoint(tmp_path / "absent") is None


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints that are there; none has lost its tensors."""
    cards, tensors = ({p.stem for p in folder.glob(f"step-*{suffix}")} for suffix in (".json", ".safetensors"))
    assert cards == tensors
    return sorted(int(name.removeprefix("step-")) for name in cards)


def test_one_more_is_kept_where_asked(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, step, TENSORS, {}, keep=10)
    assert steps_in(tmp_path) == [10, 30, 40]
    write_checkpoint(tmp_path, 50, TENSORS, {}, keep=50)
    assert steps_in(tmp_path) == [40, 50]


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    for debris in (".step-000000003.json.77.partial", "step-000000002.safetensors"):
        (tmp_path / debris).write_bytes(b"half")
    write_checkpoint(tmp_path, 4, TENSORS, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000004.json", "step-000000004.safetensors"]


def test_those_behind_a_step_are_forgotten(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, step, TENSORS, {})
    forget_checkpoints(tmp_path, behind=1)
    assert steps_in(tmp_path) == [1]
    forget_checkpoints(tmp_path / "absent", behind=0)


def test_every_flipped_bit_of_a_card_is_noticed(tmp_path: Path) -> None:
    """No reading gives another state than was written."""
    state = {"step": 7, "history": [{"iou": 0.123456789}], "norms": [1.5, 1e-9]}
    write_checkpoint(tmp_path, 7, TENSORS, state, owner="me")
    card = tmp_path / "step-000000007.json"
    good = card.read_bytes()
    for position in range(len(good)):
        card.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(StoreError):
            read_checkpoint(tmp_path, 7, owner="me")
    card.write_bytes(good)
    assert read_checkpoint(tmp_path, 7, owner="me")[1] == state


def test_another_training_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_checkpoint(tmp_path, 1, TENSORS, {"step": 1}, owner="me")
    write_checkpoint(tmp_path, 2, TENSORS, {"step": 2}, owner="you")
    found = read_latest_checkpoint(tmp_path, owner="me")
    assert found is not None
    assert found[1] == {"step": 1}
    assert len(caplog.messages) == 1 and "another network" in caplog.messages[0]
    with pytest.raises(StoreError, match="belongs to a training of another network"):
        read_checkpoint(tmp_path, 2, owner="me")
    with pytest.raises(StoreError, match="not the card"):
        read_checkpoint(tmp_path, 3, owner="me")
