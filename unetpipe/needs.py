"""What each stage asks a cluster for: memory, time and disk, predicted from the settings and the size of its files."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unetpipe.batches import Batch
from unetpipe.config import Config
from unetpipe.netspecs import NetworkSpec
from unetpipe.planning import FORMS, plan_whole
from unetpipe.specs import THIN_BYTES, TrainSpec

__all__ = ["Needs", "gpus_of", "needs", "requests", "unpacked_mb"]

# Longer jobs wait for ever in most queues; what is cut off goes on in the next attempt.
LONGEST_MIN = 1440
# Minutes that every job may take to begin and to end, beside its work.
START_MIN = 10
# Pixels in MB per MB of file, by what the format usually holds.
PACKING = {".jpg": 12, ".jpeg": 12, ".svs": 12, ".ndpi": 12, ".mrxs": 12, ".scn": 12, ".png": 4, ".tif": 2, ".tiff": 2}
# Formats of which nothing less than the whole image can be read.
WHOLE = {".jpg", ".jpeg", ".png", ".bmp"}
# Python with the libraries of a stage; those that compute with torch need more.
PLAIN_MB, TORCH_MB = 1000, 2000
# Bytes of a training step per pixel and channel of the first level: all maps that the gradient needs.
STEP_BYTES = 130
# Bytes of 30 parameters, their gradients, momenta and averages: the network of 2015 has 30 w² 4^d of them.
PARAMETER_BYTES = 720
# Validation images are predicted in cores of 512 px; for networks that cannot be tiled, those as a whole are planned.
VALIDATION_MB = 500
# Seconds on one slow core per pixel and squared channel of the first level, per patch and per predicted pixel.
STEP_S, TILE_S = 2e-8, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one job needs.

    Parameters
    ----------
    mem_mb : int
        Memory in MB.
    runtime : int
        Time in minutes.
    disk_mb : int
        Disk for the result in MB.
    """

    mem_mb: int
    runtime: int
    disk_mb: int


def requests(config: Config) -> Callable[..., dict[str, Any]]:
    """What rules ask Snakemake for.

    Parameters
    ----------
    config : Config
        The whole configuration.

    Returns
    -------
    callable
        Gives for the verb of a stage, and the samples of one job where it takes several, ``mem_mb``, ``runtime`` and
        ``disk_mb``, functions of wildcards and attempt. The second attempt asks for twice as much of each, the third
        for three times; no job asks for more than a day. Of several samples, memory is that of the largest.
    """

    def of_stage(stage: str, batch: Batch | None = None) -> dict[str, Any]:
        @cache
        def found(sample: str, model: str) -> Needs:
            return needs(config, stage, sample=sample, model=model)

        def of_job(wildcards: Any) -> Needs:
            samples = batch.samples(wildcards) if batch else [wildcards.get("sample", "")]
            return one_behind_another([found(sample, wildcards.get("model", "")) for sample in samples])

        def mem_mb(wildcards: Any, attempt: int) -> int:
            return attempt * of_job(wildcards).mem_mb

        def runtime(wildcards: Any, attempt: int) -> int:
            return min(LONGEST_MIN, attempt * of_job(wildcards).runtime)

        def disk_mb(wildcards: Any, attempt: int) -> int:
            return attempt * of_job(wildcards).disk_mb

        return {"mem_mb": mem_mb, "runtime": runtime, "disk_mb": disk_mb}

    return of_stage


def one_behind_another(of_each: Sequence[Needs]) -> Needs:
    """What a job needs that does several things in turn."""
    minutes = START_MIN + sum(one.runtime - START_MIN for one in of_each)
    return Needs(
        mem_mb=max(one.mem_mb for one in of_each),
        runtime=min(LONGEST_MIN, minutes),
        disk_mb=sum(one.disk_mb for one in of_each),
    )


def gpus_of(resources: Mapping[str, Any]) -> int:
    """The GPUs of a job, by whichever of its resources they were asked for.

    Parameters
    ----------
    resources : mapping
        Of the job: ``gpu``; or ``gres``, for clusters that know no other way.

    Examples
    --------
    >>> gpus_of({"gpu": 1}), gpus_of({"gpu": 0, "gres": "gpu:a100:2"}), gpus_of({"gpu": 0, "gres": "gpu"})
    (1, 2, 1)
    """
    asked = re.fullmatch(r"gpu(?::[^:]*[^:\d][^:]*)?(?::(\d+))?", str(resources.get("gres", "")))
    return max(int(resources.get("gpu", 0)), int(asked[1] or 1) if asked else 0)


def result_mb(config: Config, stage: str, image_mb: float) -> float:
    """Disk in MB for the result of a stage, from an image of so many MB of pixels."""
    sections, models = config.sections, config.models.values()
    per_image = {"simulate": 1.0, "ingest": 1.4, "annotate": 2.0, "weigh": 1.0, "segment": 2.0}
    mb = per_image.get(stage, 0.0) * image_mb
    if stage == "augment":
        mb = 6 * sections["augment"].copies * sections["augment"].input_px ** 2 / 1e6
    elif stage in ("train", "import"):
        mb = 1 + 2 * max((parameter_bytes(model.network) for model in models), default=0) / 1e6
    elif stage == "predict":
        mb = 2 * max((model.network.classes for model in models), default=2) * image_mb
    elif stage in ("doctor", "report"):
        mb = 10 + len(config.samples) / 10
    return mb


def needs(config: Config, stage: str, *, sample: str = "", model: str = "") -> Needs:
    """What a stage needs for one sample, one model, or both.

    Parameters
    ----------
    config : Config
        The whole configuration.
    stage : str
        Verb of the stage.
    sample, model : str
        What the job is about, as far as the stage has them.

    Returns
    -------
    Needs
        For the first attempt.

    Notes
    -----
    Slides are read and written in blocks, so that their size counts in time only; `augment` and `evaluate` take an
    image as a whole, and so do networks that cannot be tiled what they are validated on, and formats that cannot be
    read in parts. The size in pixels is estimated from that of the file. Networks count by the channels w of their
    first level and the side s of what they see: a training step of a network of depth d keeps about
    130 w s² + 720 w² 4^d bytes, its maps and its parameters; what a tile takes is planned.
    """
    image = source_mb(config, sample) if sample else 0.0
    minutes, mem = START_MIN + image / 100, float(PLAIN_MB)
    sections = config.sections
    if stage == "ingest":
        mem += 4 * image if Path(config.samples[sample].image).suffix.lower() in WHOLE else 1000
    elif stage == "annotate":
        # Outlines as Python objects take many times what they take as text.
        mem += 1000 + 20 * file_mb(config.samples[sample].annotation)
    elif stage == "weigh":
        mem += 1000
    elif stage == "augment":
        patches = sections["augment"].copies * sections["augment"].input_px ** 2 / 1e6
        mem, minutes = mem + 500 + 24 * image, minutes + patches / 10
    elif stage == "train":
        return training_needs(config, model)
    elif stage == "import":
        mem = TORCH_MB
    elif stage == "tune":
        mem += 1000
    elif stage == "predict":
        members = [config.models[one].network for one in config.members(model)]
        forms = FORMS[sections["predict"].symmetries]
        mem = config.predict_mb(model) * max(1, config.cluster.local)
        minutes += 20 + sum(TILE_S * width_of(network) ** 2 for network in members) * forms * image * 1e6 / 60
    elif stage == "segment":
        plan = config.plans[model]
        mem += 1000 + 32 * (plan.shard_px if plan else 1024) ** 2 / 1e6
    elif stage == "evaluate":
        mem += 500 + (THIN_BYTES * image if sections["evaluate"].thin else 0)
        minutes += image / 5
    elif stage in ("doctor", "report"):
        # At most 4 million pixels of each sample are looked at, one sample behind the other.
        mem, minutes = 3000, 20 + len(config.samples) / 10
    return needs_of(mem, minutes, result_mb(config, stage, image))


def needs_of(mem_mb: float, minutes: float, disk_mb: float) -> Needs:
    """Whole numbers of each; at most a day, at least 1 MB of disk."""
    return Needs(mem_mb=round(mem_mb), runtime=min(LONGEST_MIN, round(minutes)), disk_mb=max(1, round(disk_mb)))


def training_needs(config: Config, model: str) -> Needs:
    """What a training needs."""
    spec, side = config.models[model].spec, config.sections["augment"].input_px
    assert isinstance(spec, TrainSpec), "imported networks are not trained"
    width = width_of(spec.network)
    validated = max((source_mb(config, name) for name in config.own("val", model)), default=0.0)
    validation = VALIDATION_MB
    if not spec.network.geometry.tileable:
        whole = math.isqrt(int(1e6 * validated / spec.network.channels)) + 1
        validation = plan_whole(spec.network, (whole, whole)).host_bytes // 10**6
    mem = TORCH_MB + step_mb(spec, side) + validation
    minutes = 60 + spec.steps * spec.accumulate * STEP_S * width**2 * side**2 / 60
    return needs_of(mem, minutes, result_mb(config, "train", 0.0))


def step_mb(spec: TrainSpec, side: int) -> float:
    """Memory of a training step in MB, without torch: all maps, and parameters with gradients and momenta."""
    width = width_of(spec.network)
    return (STEP_BYTES * width * side**2 + parameter_bytes(spec.network)) / 1e6


def parameter_bytes(network: NetworkSpec) -> int:
    """Parameters, and what an optimiser keeps of each, in bytes."""
    return PARAMETER_BYTES * width_of(network) ** 2 << 2 * network.depth


def width_of(network: NetworkSpec) -> int:
    """Channels of a network's first level."""
    features: tuple[int, ...] = getattr(network, "features", ())
    return features[0] if features else getattr(network, "base_width", 0)


def source_mb(config: Config, sample: str) -> float:
    """Pixels of a sample's image in MB, as far as the file's size tells."""
    path = config.samples[sample].image
    if config.is_simulated(path):
        spec = config.sections["simulate"]
        return float(spec.slide_side if config.samples[sample].split == "predict" else spec.image_side) ** 2 / 1e6
    return unpacked_mb(Path(path))


def unpacked_mb(path: Path) -> float:
    """Pixels of an image file or folder in MB, estimated from its size.

    Parameters
    ----------
    path : Path
        Image file; of a folder (Zarr), every file counts.

    Returns
    -------
    float
        MB (1e6 bytes); 0 where there is no such file.

    Examples
    --------
    >>> unpacked_mb(Path("absent.tif"))
    0.0
    """
    return file_mb(str(path)) * PACKING.get(path.suffix.lower(), 3)


@cache
def file_mb(path: str) -> float:
    """Size of a file, or of all files of a folder, in MB."""
    place = Path(path)
    if place.is_dir():
        return float(sum(file.stat().st_size for file in place.rglob("*") if file.is_file())) / 1e6
    return place.stat().st_size / 1e6 if place.is_file() else 0.0
