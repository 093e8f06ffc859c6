"""Network parameters and training states on disk: safetensors with a digest, never pickle."""

import hashlib
import io
import json
import logging
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unetpipe.errors import StoreError
from unetpipe.manifests import write_file
from unetpipe.sources.files import sha256_of_file
from unetpipe.specs import canonical_json

__all__ = [
    "forget_checkpoints",
    "read_checkpoint",
    "read_latest_checkpoint",
    "read_metadata",
    "read_public_file",
    "read_weights",
    "write_checkpoint",
    "write_weights",
]

KEPT = 2
# What torch.load raises for damaged files, depending on the byte.
BROKEN = (
    RuntimeError,
    ValueError,
    LookupError,
    OSError,
    EOFError,
    AssertionError,
    TypeError,
    AttributeError,
    struct.error,
)

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]

log = logging.getLogger(__name__)


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: dict[str, str] | None = None,
    check: Callable[[Path], None] | None = None,
) -> str:
    """Write tensors as one safetensors file, whole or not at all.

    Parameters
    ----------
    path : Path
        Its name.
    tensors : mapping of str to Tensor
        Parameters and buffers.
    metadata : dict of str to str, optional
        Stands in the file's header.
    check : callable, optional
        As in `write_file`.

    Returns
    -------
    str
        SHA-256 of the file, which is the same for the same tensors and metadata of at most one entry.
    """
    content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
    write_file(path, content, check=check)
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
            raise StoreError(
                f"{path}: damaged: expected SHA-256 {digest[:16]}..., found {found[:16]}...; delete it and run again"
            )
        return safetensors.torch.load_file(path)
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise StoreError(
            f"{path}: cannot be read as safetensors: {type(error).__name__}; give a good copy, or run again"
        ) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file.

    Raises
    ------
    StoreError
        If it is not one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise StoreError(
            f"{path}: cannot be read as safetensors: {type(error).__name__}; give a good copy, or run again"
        ) from None


def read_public_file(path: Path) -> object:
    """Read a file of parameters from outside, of which nothing is known and no code is run.

    Parameters
    ----------
    path : Path
        A safetensors file, or one that ``torch.save`` has written.

    Returns
    -------
    object
        Tensors by name, as a rule; of a file of ``torch.save``, whatever plain data it holds.

    Raises
    ------
    StoreError
        If the file is missing or damaged, or a pickle that wants more than tensors and plain data.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise StoreError(f"{path}: expected a file of parameters, came a folder; name the file in it") from None
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        with warnings.catch_warnings():
            # About old or odd pickles: what is wrong with them is said below, or is of no matter.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, *BROKEN) as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise StoreError(
                f"{path}: expected tensors only, came a pickle that wants to call {wanted[1]:.60}, and a call can do "
                "anything; where it was made, save it with torch.save(network.state_dict(), ...) and take that"
            ) from None
        raise StoreError(
            f"{path}: expected a state dict of torch.save or safetensors, came a file that is damaged or of another "
            f"kind ({type(error).__name__}); fetch it again"
        ) from None


def write_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any], *, owner: str = "", keep: int = -1
) -> None:
    """Write a training state and drop all but the last two and one.

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
    owner : str
        Digest of what is trained on what; others do not go on from this checkpoint.
    keep : int
        Step of one more checkpoint that is kept if it exists.

    Notes
    -----
    The card with the digests is written behind the tensors: a checkpoint without a fitting card does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = card_path(folder, step)
    digest = write_weights(path.with_suffix(".safetensors"), tensors)
    card = {"sha256": digest, "state_sha256": digest_of_state(state), "owner": owner, "state": state}
    write_file(path, json.dumps(card).encode())
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        if old != card_path(folder, keep):
            old.unlink()
    remove_orphans(folder)


def card_path(folder: Path, step: int) -> Path:
    """The file that makes a checkpoint one."""
    return folder / f"step-{step:09d}.json"


def digest_of_state(state: dict[str, Any]) -> str:
    """SHA-256 of plain JSON data."""
    return hashlib.sha256(canonical_json(state).encode()).hexdigest()


def remove_orphans(folder: Path) -> None:
    """Remove tensors without a card, and what a killed process left half written."""
    cards = {card.stem for card in folder.glob("step-*.json")}
    orphans = [file for file in folder.glob("step-*.safetensors") if file.stem not in cards]
    for file in [*orphans, *folder.glob(".*.partial")]:
        file.unlink()


def forget_checkpoints(folder: Path, *, behind: int) -> None:
    """Remove the training states behind a step, the last first; a training that goes back to it does not pass them."""
    for card in sorted(folder.glob("step-*.json"), reverse=True):
        if card > card_path(folder, behind):
            card.unlink()
    remove_orphans(folder)


def read_checkpoint(folder: Path, step: int, *, owner: str = "") -> Checkpoint:
    """Read the training state behind a step.

    Parameters
    ----------
    folder : Path
        The model's checkpoints.
    step : int
        Steps done.
    owner : str
        As it was written with.

    Returns
    -------
    tensors, state : dict
        As they were written.

    Raises
    ------
    StoreError
        If it is missing, damaged, or of another owner.
    """
    path = card_path(folder, step)
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        state, digest, owner_found = card["state"], card["sha256"], card["owner"]
        whole = card["state_sha256"] == digest_of_state(state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: not the card of a checkpoint ({type(error).__name__})") from None
    if not whole:
        raise StoreError(f"{path}: the digest does not fit: the file is damaged")
    if owner_found != owner:
        raise StoreError(f"{path}: belongs to a training of another network, of other settings or of other data")
    return read_weights(path.with_suffix(".safetensors"), digest=digest), state


def read_latest_checkpoint(folder: Path, *, owner: str = "") -> Checkpoint | None:
    """The last training state that is whole; None where there is none.

    Parameters
    ----------
    folder : Path
        The model's checkpoints.
    owner : str
        As they were written with.

    Notes
    -----
    One that is damaged or of another owner is passed over for the one before, with one warning; the last warning says
    that none is left.
    """
    paths = sorted(folder.glob("step-*.json"))
    while paths:
        path = paths.pop()
        try:
            return read_checkpoint(folder, int(path.stem.removeprefix("step-")), owner=owner)
        except (StoreError, ValueError) as error:
            instead = "falling back to the one before" if paths else "none is left to go on from"
            log.warning("a checkpoint cannot be used (%s); %s", error, instead)
    return None
