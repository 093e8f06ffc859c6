"""What predicts cores of one image: networks on one device, the image that they see, the store that they fill.

One process has one at a time, whether it predicts alone or is one of several workers.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.checkpoints import read_weights
from unetpipe.devices import (
    DTYPES,
    check_precision,
    lease_devices,
    set_tensorfloat32,
    used_bytes,
)
from unetpipe.errors import ConfigError
from unetpipe.fingerprint import fingerprint
from unetpipe.geometry import Box, TileGrid
from unetpipe.heap import keep_freed_memory, use_one_heap
from unetpipe.inference import Forward, predict_tiles
from unetpipe.intensity import intensity_range
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.netspecs import NetworkSpec, network_spec
from unetpipe.networks import build_network
from unetpipe.planning import CACHE_BYTES
from unetpipe.resampling import Resampling
from unetpipe.slides import Plane, open_plane
from unetpipe.specs import PredictSpec
from unetpipe.symmetries import GROUPS
from unetpipe.tissue import mask_block
from unetpipe.windows import shared_reader

__all__ = ["SCALE", "Core", "Inside", "Part", "Predictor", "Work", "mask_of", "predict_part", "software", "write_core"]

log = logging.getLogger(__name__)

# Probabilities are stored as round(p * SCALE) in uint16: off by at most 7.7e-6.
SCALE = 65535

Core = tuple[Box, tuple[tuple[str, Box], ...]]
"""A core, and name and box of each of its shards that is not there yet."""
Inside = Callable[[Box], NDArray[np.bool_]]
"""Which pixels of a box are predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One prediction, told in few words to whoever shares it.

    Parameters
    ----------
    image : Path
        Manifest of the image.
    models : tuple of Path
        Manifests of the networks.
    region : Path or None
        Areas that are predicted.
    store : Path
        Where the result is written; its array is there.
    spec : PredictSpec
        The stage's settings.
    core_px : int
        Side of a core in px.
    part_px : int
        Side in px of the tiles by which a processor computes a core.
    threads : int
        Threads that add up on a processor, in each process that shares the work: their number changes last bits.
    key : str
        Digest of all that the result depends on.
    software : str
        What the process has that shares its work, as `software` tells; empty where none is shared.
    """

    image: Path
    models: tuple[Path, ...]
    region: Path | None
    store: Path
    spec: PredictSpec
    core_px: int
    part_px: int
    threads: int
    key: str
    software: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a worker has made of some cores.

    Parameters
    ----------
    shards : list of (str, Box, str)
        Name, box and digest of each shard, in the order of the cores.
    draft : str
        Mark under which they are written.
    cores : list of (int, float)
        Pixels of each core, and the seconds for which it was computed.
    device : str
        Kind of the worker's device.
    used_bytes : int
        Most memory of it that the worker has had so far.
    """

    shards: list[tuple[str, Box, str]]
    draft: str
    cores: list[tuple[int, float]]
    device: str
    used_bytes: int


class Predictor:
    """Predicts cores on the device of this process.

    Parameters
    ----------
    work : Work
        Which image, which networks, where to.

    Attributes
    ----------
    device : torch.device
        Where the networks are.
    """

    def __init__(self, work: Work) -> None:
        source = read_manifest(work.image, stage="ingest")
        models = [read_manifest(model, stage="train") for model in work.models]
        self.pixels, self.result = open_plane(source.store / "0"), open_plane(work.store / "0", writable=True)
        nets = [network_spec(model.facts["network"]) for model in models]
        grids = [TileGrid(shape=self.pixels.shape, core_side=work.core_px, geometry=net.geometry) for net in nets]
        self.device, precision = prepare(work.threads), work.spec.precision
        check_precision(precision, self.device, stage="predict")
        networks = [loaded(net, model, self.device) for net, model in zip(nets, models, strict=True)]
        members = list(zip(networks, grids, strict=True))
        self.forward = Forward(
            members=members,
            device=self.device,
            symmetries=GROUPS[work.spec.symmetries],
            side=work.part_px if self.device.type == "cpu" else work.core_px,
            dtype=DTYPES.get(precision),
        )
        self.limits = intensity_range(models[0].facts["intensity"], self.pixels.dtype, source.facts["percentiles"])
        self.inside = mask_of(source, work.spec, work.region)

    def predict(
        self,
        cores: Sequence[Core],
        *,
        take: Callable[[str, Box, str], None],
        watch: Callable[[Box, float], None],
        draft: str = "",
    ) -> None:
        """Predict cores and write their shards.

        Parameters
        ----------
        cores : sequence of Core
            Best in raster order, for neighbours share what is decoded.
        take : callable
            Told of each shard that is durable: its name, its box and the digest of its pixels.
        watch : callable
            Called behind each core with its box and the seconds for which it was computed.
        draft : str
            Mark of the shards' names, as in `Plane.write_shard`.
        """
        shards = dict(cores)
        boxes = list(shards)

        def write(core: Box, quantised: NDArray[np.uint16]) -> None:
            write_core(self.result, (core, shards[core]), quantised, inside=self.inside, take=take, draft=draft)

        predict_tiles(
            self.forward,
            boxes,
            read=shared_reader(self.pixels, self.forward, boxes, self.limits, most_bytes=CACHE_BYTES),
            write=write,
            finish=quantised_once,
            watch=watch,
        )


def write_core(
    result: Plane,
    core: Core,
    quantised: NDArray[np.uint16],
    *,
    inside: Inside | None,
    take: Callable[[str, Box, str], None],
    draft: str = "",
) -> None:
    """Write the shards of a core that are not there yet; what lies outside is the first class for sure."""
    box, shards = core
    if inside is not None:
        quantised[:, ~inside(box)] = SCALE * np.eye(quantised.shape[0], 1, dtype=np.uint16)
    for name, shard in shards:
        block = quantised[(slice(None), *shard.relative_to(box.start).slices)]
        take(name, shard, result.write_shard(shard, block, draft=draft))


_ONE_AT_A_TIME = threading.Lock()


def predict_part(work: Work, cores: Sequence[Core]) -> Part:
    """Predict some cores as a worker: shards are written as drafts, for others may write the same ones.

    Parameters
    ----------
    work : Work
        Of which the process keeps the last, with its networks, for the next part.
    cores : sequence of Core
        This worker's part.

    Returns
    -------
    Part

    Raises
    ------
    ConfigError
        If this process has other software than the one that shares the work.
    """
    shards: list[tuple[str, Box, str]] = []
    done: list[tuple[int, float]] = []
    draft = secrets.token_hex(8)
    # Workers of others may have several threads; a device computes one core at a time.
    with _ONE_AT_A_TIME:
        predictor = opened(work)
        predictor.predict(
            cores,
            take=lambda name, box, digest: shards.append((name, box, digest)),
            watch=lambda core, seconds: done.append((core.shape[0] * core.shape[1], seconds)),
            draft=draft,
        )
    used = used_bytes(predictor.device)
    return Part(shards=shards, draft=draft, cores=done, device=predictor.device.type, used_bytes=used)


@lru_cache(maxsize=1)
def opened(work: Work) -> Predictor:
    """The predictor of this process."""
    if software(work) != work.software:
        raise ConfigError(
            "predict.cluster: workers have another unetpipe or torch than the process that shares its work with them; "
            "start them from the same environment"
        )
    # The command line has done so in the process that predicts alone.
    use_one_heap()
    return Predictor(work)


def software(work: Work) -> str:
    """Code of all that computes the result, and torch: what must be the same wherever its parts are computed.

    Parameters
    ----------
    work : Work
        Its networks count.
    """
    nets = (read_manifest(model, stage="train").facts["network"]["family"] for model in work.models)
    families = sorted({f"unetpipe.networks.{family}" for family in nets})
    return f"{fingerprint(__name__, *families)} torch {torch.__version__}"


def prepare(threads: int) -> torch.device:
    """Set what makes computing fast, and equal on equal machines."""
    torch.set_num_threads(threads)
    (device,) = lease_devices(1)
    set_tensorfloat32(False)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
    else:
        keep_freed_memory()
        log.warning("predict: no GPU to use; using the CPU with %d threads", torch.get_num_threads())
    return device


def loaded(spec: NetworkSpec, model: Manifest, device: torch.device) -> nn.Module:
    """The trained network, ready to predict."""
    network = build_network(spec, seed=0)
    network.load_state_dict(read_weights(model.store / "weights.safetensors", digest=model.facts["weights"]))
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def quantised_once(probabilities: torch.Tensor) -> torch.Tensor:
    """Probabilities as they are stored."""
    return probabilities.mul_(SCALE).round_().to(torch.uint16)


def mask_of(image: Manifest, spec: PredictSpec, region: Path | None) -> Inside | None:
    """A function that tells which pixels of a box are predicted: tissue, a region, or both; None where all are."""
    masks = [read_tissue(image)] if spec.tissue_only else []
    if region is not None:
        # Few predictions have one, and it takes a fifth of the time that all of them need to start.
        from unetpipe.annotations.regions import read_region

        resampling = Resampling(shape=tuple(image.facts["source_shape"]), factor=image.facts["factor"])
        masks.append(partial(resampling.labels, read_region(region, shape=resampling.shape)))
    return (lambda box: np.logical_and.reduce([mask(box) for mask in masks])) if masks else None


def read_tissue(image: Manifest) -> Inside:
    """A function that gives the tissue mask over a box of the image."""
    facts = image.facts["tissue"]
    if facts is None:
        raise ConfigError(f"{image.path}: expected a tissue mask, which predict.tissue_only needs; set ingest.tissue")
    mask = open_plane(image.store / "tissue" / "0").read_whole() > 0
    return lambda box: mask_block(mask, box, level=0, mask_level=facts["level"])
