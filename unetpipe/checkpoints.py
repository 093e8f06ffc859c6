"""Network parameters and training states on disk: safetensors with a digest, never pickle."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from unetpipe.errors import StoreError
from unetpipe.manifests import sha256_of_file, write_file

__all__ = ["read_latest_checkpoint", "read_weights", "write_checkpoint", "write_weights"]

KEPT = 2

log = logging.getLogger(__name__)


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as one safetensors file, whole or not at all.

    Returns
    -------
    str
        SHA-256 of the file, which is the same for the same tensors.
    """
    content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path, *, digest: str) -> dict[str, Tensor]:
    """Read tensors and make sure that they are the ones that were written.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or not of the given digest.
    """
    try:
        found = sha256_of_file(path)
        if found != digest:
            raise StoreError(f"{path}: expected SHA-256 {digest[:16]}..., found {found[:16]}...: the file is damaged")
        return safetensors.torch.load_file(path)
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read as safetensors ({type(error).__name__})") from None


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Write a training state and drop all but the last two.

    Parameters
    ----------
    folder : Path
        The model's checkpoints.
    step : int
        Steps done; names the checkpoint.
    tensors : mapping of str to Tensor
        Parameters, momenta, best parameters.
    state : dict
        The rest of the state, as plain JSON data.

    Notes
    -----
    The card with the digest is written behind the tensors: a checkpoint without a fitting card does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:09d}"
    digest = write_weights(folder / f"{name}.safetensors", tensors)
    write_file(folder / f"{name}.json", json.dumps({"sha256": digest, "state": state}).encode())
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        old.unlink()
    cards = {card.stem for card in folder.glob("step-*.json")}
    for orphan in [file for file in folder.glob("step-*.safetensors") if file.stem not in cards]:
        orphan.unlink()


def read_latest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The last training state that is whole; None where there is none.

    A damaged one is passed over for the one before, with one warning.
    """
    for card in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            data = json.loads(card.read_text(encoding="utf-8"))
            return read_weights(card.with_suffix(".safetensors"), digest=data["sha256"]), data["state"]
        except (StoreError, ValueError, KeyError) as error:
            log.warning("checkpoint %s is damaged (%s); falling back to the one before", card.stem, error)
    return None
