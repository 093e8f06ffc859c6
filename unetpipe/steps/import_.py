"""import: public weights of the padded U-Net as a model that predicts like a trained one."""

import json
import logging
from pathlib import Path

from torch import Tensor

from unetpipe.checkpoints import read_public_file, write_weights
from unetpipe.errors import ConfigError, ModelError
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import store_path, write_file
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.publicstates import recognised
from unetpipe.specs import ImportSpec, canonical_json

__all__ = ["import_"]

# What batch norm has counted, not learned.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

log = logging.getLogger(__name__)


def import_(weights: Path, *, output: Path, spec: ImportSpec, code: str) -> None:
    """Take the parameters of a network that was trained elsewhere.

    Reads
    -----
    weights : state dict
        A file of ``torch.save`` (its tensors only: no code in it is run) or of safetensors.

    Writes
    ------
    output : manifest of `train`
        Beside it a folder with ``weights.safetensors`` and its card ``card.json``.
    """
    net, state = read_network(weights, spec)
    check_free(output)
    with open_ledger(output, stage="train", spec=spec, code=code, sources=[weights]) as ledger:
        if ledger.complete:
            return
        facts = {
            "network": json.loads(canonical_json(net)),
            "intensity": spec.intensity,
            "pixel_size_um": spec.pixel_size_um,
            "class_weights": [1.0] * net.classes,
            "parameters": sum(value.numel() for name, value in state.items() if not name.endswith(STATISTICS)),
            "steps": 0,
            "kept_step": 0,
            "retreats": 0,
        }
        digest = write_weights(ledger.store / "weights.safetensors", state)
        card = {"sha256": digest, **facts, "sources": ledger.identity["inputs"]}
        write_file(ledger.store / "card.json", json.dumps(card, indent=1, sort_keys=True).encode())
        ledger.append("weights", digest)
        ledger.publish({**facts, "weights": digest, "history": []})
    log.info("%s: %s", output, canonical_json(net))


def read_network(weights: Path, spec: ImportSpec) -> tuple[PaddedUnetSpec, dict[str, Tensor]]:
    """Spec and state of the network in a file."""
    try:
        return recognised(read_public_file(weights), align_corners=spec.align_corners)
    except (ModelError, ConfigError) as error:
        raise ModelError(f"{weights}: {error}") from None


def check_free(output: Path) -> None:
    """Refuse to empty the folder of a training."""
    store = store_path(output, "train")
    if any((store / name).exists() for name in ("checkpoints", "history.csv")):
        raise ConfigError(f"{output}: expected a new name or that of an imported model, came a training; name another")
