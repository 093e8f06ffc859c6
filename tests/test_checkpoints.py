"""Parameters and states on disk."""

import pickle
from pathlib import Path

import pytest
import torch

from unetpipe.checkpoints import read_latest_checkpoint, read_weights, write_checkpoint, write_weights
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
    assert len(caplog.records) == 1


def test_none_is_none(tmp_path: Path) -> None:
    assert read_latest_checkpoint(tmp_path / "absent") is None
