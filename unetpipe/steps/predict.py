"""predict: class probabilities of a whole image or slide by overlap-tile inference."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe.clusterspecs import ClusterSpec
from unetpipe.devices import check_gpus, check_precision, choose_device, host_facts, usable_threads, used_bytes
from unetpipe.errors import ModelError
from unetpipe.geometry import Box
from unetpipe.intensity import intensity_range
from unetpipe.ledgers import Ledger, key_of, open_ledger
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.multiscales import write_multiscale
from unetpipe.netspecs import network_spec
from unetpipe.planning import Plan, plan_tiles
from unetpipe.predictor import SCALE, Core, Part, Predictor, Work, mask_of, predict_part, software, write_core
from unetpipe.progress import TileProgress
from unetpipe.slides import Plane, create_plane, shard_boxes
from unetpipe.sources.files import check_unchanged, source_stamp
from unetpipe.specs import PredictSpec
from unetpipe.units import agree
from unetpipe.workers import open_workers

__all__ = ["SCALE", "predict"]

log = logging.getLogger(__name__)

# Most cores that a worker gets at once, and seconds that they take: neighbours share what is read, but a kill loses
# what has not come back, and other workers wait for the last ones.
MOST_CORES, MOST_S = 8, 30.0
# Share of the intensity range by which images may lie outside, and of which they must fill more.
BEYOND = 0.1
# Parts for each worker at least, so that all end at about the same time.
LEAST_PARTS = 4


def predict(
    image: Path,
    models: Sequence[Path],
    region: Path | None = None,
    *,
    output: Path,
    spec: PredictSpec,
    code: str,
    threads: int,
    gpus: int = 1,
    cluster: ClusterSpec | None = None,
) -> None:
    """Apply a network, or several whose probabilities are averaged, to an image, core by core.

    Several GPUs, or the workers of a cluster, share the cores; their number changes no byte of the result.

    Reads
    -----
    image : manifest of `ingest`
    models : manifests of `train`
    region : file, optional
        Areas on the image: QuPath's GeoJSON or ImageJ's ROIs.

    Writes
    ------
    output : manifest
        Beside it a store with the array ``0`` (K, Y, X), probability times 65535 as uint16. Pixels outside the region
        and, with `spec.tissue_only`, outside the tissue mask are the first class with probability 1, whatever the
        cores; ``skipped_cores`` counts those of which nothing is inside, which are not computed. What the run took
        stands in a folder ``costs``.
    """
    workers = cluster_of(cluster, gpus)
    if workers.is_none:
        check_precision(spec.precision, choose_device(), stage="predict")
    source = read_manifest(image, stage="ingest")
    trained = [read_manifest(model, stage="train") for model in models]
    check_fit(source, trained, spec.n_classes)
    drawn = [region] if region else []
    stamps = [source_stamp(path) for path in drawn]
    keys: dict[str, Any] = {"spec": spec, "code": code, "inputs": [source, *trained], "sources": drawn}
    with open_ledger(output, stage="predict", **keys) as ledger:
        if ledger.complete:
            return
        nets = [network_spec(model.facts["network"]) for model in trained]
        height, width = source.facts["shape"]
        plan = plan_tiles(nets, spec, shape=(height, width))
        shape = (nets[0].classes, height, width)
        result = create_plane(ledger.store / "0", shape=shape, dtype=np.uint16, shard_side=plan.shard_px)
        inside = mask_of(source, spec, region)
        cores = [core for _, core in shard_boxes("", (height, width), plan.core_px)]
        empty = {core for core in cores if inside is not None and not inside(core).any()}
        left = cores_left(cores, result, ledger)
        for core, shards in left:
            if core in empty:
                zeros = np.zeros((shape[0], *core.shape), np.uint16)
                write_core(result, (core, shards), zeros, inside=inside, take=recorder(ledger))
        todo = [(core, shards) for core, shards in left if core not in empty]
        work = Work(
            image=image.absolute(),
            models=tuple(model.absolute() for model in models),
            region=region and region.absolute(),
            store=ledger.store.absolute(),
            spec=spec,
            core_px=plan.core_px,
            part_px=plan.part_px,
            threads=usable_threads(threads),
            key=key_of(ledger.identity),
        )
        progress = TileProgress(len(cores), sys.stderr, done=len(cores) - len(todo))
        run = Run(work=work, ledger=ledger, result=result, progress=progress)
        try:
            run.compute(todo, workers, memory_bytes=plan.host_bytes)
        finally:
            progress.clear()
        # Before the result is finished, for behind that no run comes here; one that found all done took nothing.
        if left or not cost_path(output).exists():
            write_cost(output, plan, run)
        for path, stamp in zip(drawn, stamps, strict=True):
            check_unchanged(path, stamp)
        frame = {name: source.facts[name] for name in ("pixel_size_um", "factor")}
        name = output.name.removesuffix(".json")
        write_multiscale(ledger.store, name=name, shapes=[shape], centred=True, **frame)
        facts = {"shape": [height, width], "classes": shape[0], "scale": SCALE, "skipped_cores": len(empty)}
        ledger.publish(facts | frame)


@dataclass(kw_only=True)
class Run:
    """A prediction while it runs, and what it takes: kind and number of devices, memory of one, seconds of a core."""

    work: Work
    ledger: Ledger
    result: Plane
    progress: TileProgress
    device: str = "cpu"
    used_bytes: int = 0
    workers: int = 1
    core_s: float = MOST_S

    def compute(self, todo: Sequence[Core], cluster: ClusterSpec, *, memory_bytes: int) -> None:
        """Compute cores in this process, or by workers."""
        if not todo or cluster.is_none:
            self.alone(todo)
            return
        work = replace(self.work, software=software(self.work))
        with open_workers(cluster, threads=work.threads, memory_bytes=memory_bytes) as workers:
            self.workers = workers.count
            self.progress.begin(workers.count)
            workers.each(partial(predict_part, work), self.parts(todo), take=self.take)

    def alone(self, todo: Sequence[Core]) -> None:
        """Compute cores in this process."""
        predictor = Predictor(self.work)
        self.progress.begin(1)

        def watch(core: Box, seconds: float) -> None:
            self.progress.show(core.shape[0] * core.shape[1], seconds)

        predictor.predict(todo, take=recorder(self.ledger), watch=watch)
        self.device, self.used_bytes = predictor.device.type, used_bytes(predictor.device)

    def parts(self, todo: Sequence[Core]) -> Iterator[Sequence[Core]]:
        """Neighbouring cores for a worker at a time: one, until the first that has come back tells how long it took."""
        most = min(MOST_CORES, -(-len(todo) // (LEAST_PARTS * self.workers)))
        first = 0
        while first < len(todo):
            size = max(1, min(most, int(MOST_S / self.core_s)))
            yield todo[first : first + size]
            first += size

    def take(self, part: Part) -> None:
        """Give the shards of a worker their places, and record them."""
        for name, box, digest in part.shards:
            self.result.take_draft(box, part.draft)
            self.ledger.append(name, digest)
        for pixels, seconds in part.cores:
            self.progress.show(pixels, seconds)
            self.core_s = max(seconds, 1e-9)
        self.device, self.used_bytes = part.device, max(self.used_bytes, part.used_bytes)


def cluster_of(cluster: ClusterSpec | None, gpus: int) -> ClusterSpec:
    """The workers: those of a cluster, or without one a process for each of several GPUs."""
    if cluster is not None and not cluster.is_none:
        return cluster
    check_gpus(gpus)
    return ClusterSpec(local=gpus) if gpus > 1 else ClusterSpec()


def recorder(ledger: Ledger) -> Callable[[str, Box, str], None]:
    """A function that records a shard."""
    return lambda name, box, digest: ledger.append(name, digest)


def cores_left(cores: Sequence[Box], result: Plane, ledger: Ledger) -> list[Core]:
    """Cores that are not yet written whole, with what is missing."""
    found = ((core, tuple(one for one in shards_in(result, core) if one[0] not in ledger)) for core in cores)
    return [(core, shards) for core, shards in found if shards]


def shards_in(result: Plane, core: Box) -> list[tuple[str, Box]]:
    """Names and boxes of the shards of a core."""
    side = result.shard_side
    inside = shard_boxes("", core.shape, side)
    (y0, x0) = core.start
    boxes = [Box(start=(y0 + b.start[0], x0 + b.start[1]), stop=(y0 + b.stop[0], x0 + b.stop[1])) for _, b in inside]
    return [(f"{result.folder.name}/{b.start[0] // side}/{b.start[1] // side}", b) for b in boxes]


def cost_path(output: Path) -> Path:
    """File of what a prediction took."""
    return output.parent.parent.parent / "costs" / "predict" / output.parent.name / output.name


def write_cost(output: Path, plan: Plan, run: Run) -> None:
    """Write what this run took beside what was planned, outside of the result, for no two runs take the same."""
    planned = plan.device_bytes if run.device == "cuda" else plan.host_bytes
    cost = {
        "device": run.device,
        "workers": run.workers,
        "core_px": plan.core_px,
        "planned_mb": round(planned / 1e6),
        "peak_mb": round(run.used_bytes / 1e6),
        "planned_work": round(plan.work, 4),
        "mpx_per_s": round(run.progress.rate / 1e6, 4),
        "busy": round(run.progress.busy, 3),
        "host": host_facts(),
    }
    path = cost_path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(cost).encode())


def check_fit(image: Manifest, models: Sequence[Manifest], n_classes: int) -> None:
    """Hold the image and the classes against what the models were trained on, and the models against each other."""
    for model in models:
        if n_classes not in (0, model.facts["network"]["classes"]):
            raise ModelError(
                f"{model.path}: expected {n_classes} classes as the configuration lists, came "
                f"{model.facts['network']['classes']}; list those of this model, or take another one"
            )
        expected, came = model.facts["network"]["channels"], image.facts["channels"]
        if came != expected:
            raise ModelError(
                f"{image.path}: expected {expected} channel(s) as model {model.sample} has, came {came}; "
                "choose channels in the sample sheet"
            )
        check_pixel_size(image, model)
        check_intensity(image, model)
        for what, first, other in (
            ("classes", models[0].facts["network"]["classes"], model.facts["network"]["classes"]),
            ("intensity", models[0].facts["intensity"], model.facts["intensity"]),
        ):
            if first != other:
                raise ModelError(
                    f"{model.path}: expected {what} {first} as model {models[0].sample} has, came {other}; "
                    "an ensemble needs models that agree"
                )


def check_pixel_size(image: Manifest, model: Manifest) -> None:
    """Hold the image's pixel size against that of the images that a model was trained on."""
    trained, found = model.facts["pixel_size_um"], image.facts["nominal_um"]
    if trained and found and not agree(found, trained):
        raise ModelError(
            f"{image.path}: expected pixels of {trained:.4g} um as model {model.sample} was trained on, came "
            f"{found:.4g} um; set ingest.pixel_size_um: {trained:.4g}, to which images are resampled"
        )
    if trained and not found:
        log.warning(
            "%s: pixel size not known, model %s was trained on %.4g um; fill in the column pixel_size_um of the "
            "sample sheet",
            image.sample, model.sample, trained,
        )  # fmt: skip


def check_intensity(image: Manifest, model: Manifest) -> None:
    """Tell of grey values that the model's rule does not bring near to 0 and 1: another bit depth, floats beyond 1."""
    windows = image.facts["percentiles"]
    limits = intensity_range(model.facts["intensity"], np.dtype(image.facts["dtype"]), windows)
    low, high = min(low for low, _ in windows), max(high for _, high in windows)
    black, white = min(black for black, _ in limits), max(white for _, white in limits)
    if low < black - BEYOND * (white - black) or not BEYOND <= (high - black) / max(white - black, 1e-9) <= 1 + BEYOND:
        log.warning(
            "%s: grey values from %.4g to %.4g, where model %s takes %.4g to %.4g for black and white; unless it was "
            "trained on such images, train one with augment.intensity: percentile",
            image.path, low, high, model.sample, black, white,
        )  # fmt: skip
