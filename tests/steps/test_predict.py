"""Predicted stores do not depend on cores, interruption or threads."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr

from unetpipe import predictor
from unetpipe.errors import ConfigError, GeometryError, Interrupted, ModelError, StoreError
from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger
from unetpipe.manifests import read_manifest
from unetpipe.predictor import Part, Work
from unetpipe.progress import TileProgress
from unetpipe.signals import asked
from unetpipe.slides import Plane, open_plane
from unetpipe.specs import IngestSpec, PredictSpec, SegmentSpec, UnetSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import Run, check_fit, predict
from unetpipe.steps.segment import segment

from .conftest import NETWORK, Chain, random_model

SIDES = {"core_px": 16, "part_px": 16}
WORK = Work(image=Path(), models=(), region=None, store=Path(), spec=PredictSpec(), threads=1, key="", **SIDES)


def probabilities(chain: Chain, output: Path, core_px: int, threads: int = 1) -> np.ndarray:
    """The stored probabilities of image b."""
    spec = PredictSpec(core_px=core_px)
    predict(chain["images/b"], [chain["models/m"]], output=output, spec=spec, code="p@1", threads=threads)
    return open_plane(read_manifest(output, stage="predict").store / "0").read_whole()


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("core", [16, 48, 128])
def test_cores_and_threads_change_nothing(chain: Chain, tmp_path: Path, core: int, threads: int) -> None:
    """But for the rounding to 1 of 65535; the slide of benchmarks/tile_invariance.py is larger."""
    reference = open_plane(read_manifest(chain["probabilities/m/b"]).store / "0").read_whole().astype(int)
    found = probabilities(chain, tmp_path / "probabilities" / "m" / "b.json", core, threads).astype(int)
    assert np.abs(found - reference).max() <= 1
    assert (np.abs(found.sum(axis=0) - 65535) <= 1).all()
    sure = np.abs(np.diff(reference, axis=0)[0]) > 2
    assert sure.mean() > 0.99 and np.array_equal(found.argmax(0)[sure], reference.argmax(0)[sure])


def test_workers_and_stops_change_no_byte(chain: Chain, tmp_path: Path) -> None:
    """Two processes of dask's, stopped once behind their first shards, give the bytes of one that was not."""
    pytest.importorskip("distributed")
    output = tmp_path / "probabilities" / "m" / "b.json"
    words = ["predict", chain["images/b"], chain["models/m"], "--output", output, "--threads", "1", "--code", "p@1"]
    words += ["--spec", '{"core_px": 32}', "--cluster", '{"local": 2}']
    command = [sys.executable, "-m", "unetpipe", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    ledger, end = output.with_suffix(".ledger"), time.monotonic() + 120
    while not (ledger.exists() and b'"unit"' in ledger.read_bytes()) and time.monotonic() < end:
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = ledger.read_bytes()
    assert b'"unit"' in before
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert output.read_bytes() == chain["probabilities/m/b"].read_bytes()
    one, other = read_manifest(output), read_manifest(chain["probabilities/m/b"])
    assert all((one.store / name).read_bytes() == (other.store / name).read_bytes() for name in one.objects)


def test_workers_have_all_the_threads_of_one_process(tmp_path: Path) -> None:
    """Sums of another number of threads have other last bits: here, in hundreds of values."""
    pytest.importorskip("distributed")
    model = random_model(tmp_path / "models" / "r.json", UnetSpec(depth=3, base_width=8))
    image = tmp_path / "images" / "r.json"
    tifffile.imwrite(tmp_path / "r.tif", np.random.default_rng(5).integers(0, 255, (700, 700), np.uint8))
    ingest(tmp_path / "r.tif", output=image, spec=IngestSpec(), code="i@1")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    outputs = []
    for cluster in ("{}", '{"local": 1}', '{"local": 2}'):
        outputs.append(tmp_path / str(len(outputs)) / "r" / "r.json")
        words = ["predict", image, model, "--output", outputs[-1], "--threads", "2", "--code", "p@1"]
        words += ["--spec", '{"core_px": 256}', "--cluster", cluster]
        subprocess.run([sys.executable, "-m", "unetpipe", *map(str, words)], check=True, env=environment)
    assert len({output.read_bytes() for output in outputs}) == 1


def test_a_worker_has_one_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line has: before the threads that predict begin."""
    made: list[Any] = []
    monkeypatch.setattr(predictor, "software", lambda work: work.software)
    monkeypatch.setattr(predictor, "use_one_heap", lambda: made.append("heap"))
    monkeypatch.setattr(predictor, "Predictor", made.append)
    predictor.opened.cache_clear()
    predictor.opened(WORK)
    predictor.opened.cache_clear()
    assert made == ["heap", WORK]


def test_a_part_takes_half_a_minute_at_most() -> None:
    """Whatever the device: the first of a worker is one core."""
    run = Run(work=WORK, ledger=None, result=None, progress=TileProgress(99, io.StringIO()), workers=2)  # type: ignore[arg-type]
    todo = [(Box(start=(0, 16 * n), stop=(16, 16 * n + 16)), ()) for n in range(99)]
    shared, sizes = run.parts(todo), []
    for seconds in (9.0, 0.5, 100.0, 10.0):
        part = next(shared)
        sizes.append(len(part))
        run.take(Part(shards=[], draft="d", cores=[(256, seconds)] * len(part), device="cpu", used_bytes=0))
    assert sizes == [1, 3, 8, 1]
    assert sum(sizes) + sum(map(len, shared)) == 99


def test_what_it_took_is_written_before_it_is_finished(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the next run finds all done, and leaves the row as it is."""
    output = tmp_path / "probabilities" / "m" / "b.json"
    cost = tmp_path / "costs" / "predict" / "m" / "b.json"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Ledger, "publish", killed)
        probabilities(chain, output, 32)
    row = cost.read_bytes()
    assert json.loads(row)["mpx_per_s"] > 0
    probabilities(chain, output, 32)
    assert cost.read_bytes() == row


def test_interrupted_behind_every_core_gives_the_same_bytes(chain: Chain, tmp_path: Path) -> None:
    output = tmp_path / "probabilities" / "m" / "b.json"
    stops = 0
    asked.set()
    try:
        while not output.exists() and stops < 20:
            try:
                probabilities(chain, output, 32)
            except Interrupted:
                stops += 1
    finally:
        asked.clear()
    assert stops >= 5
    probabilities(chain, output, 32)
    assert output.read_bytes() == chain["probabilities/m/b"].read_bytes()


def test_a_core_of_several_shards_goes_on_behind_each_of_them(chain: Chain, tmp_path: Path) -> None:
    """Two cores of 640 px shards: stopped behind every shard, the bytes are those of a run that was not."""
    tifffile.imwrite(tmp_path / "w.tif", np.random.default_rng(3).integers(0, 255, (650, 1300), np.uint8))
    image = tmp_path / "images" / "w.json"
    ingest(tmp_path / "w.tif", output=image, spec=IngestSpec(), code="i@1")
    folders = [tmp_path / name / "probabilities" / "m" for name in ("whole", "stopped")]
    stops = 0
    for folder in folders:
        output = folder / "w.json"
        keys = {"output": output, "spec": PredictSpec(core_px=1280), "code": "p@1", "threads": 1}
        if folder.parts[-3] == "stopped":
            asked.set()
        try:
            while not output.exists():
                try:
                    predict(image, [chain["models/m"]], **keys)
                except Interrupted:
                    stops += 1
        finally:
            asked.clear()
    assert stops == 6, "once behind each shard"
    one, other = (read_manifest(folder / "w.json") for folder in folders)
    assert one.path.read_bytes() == other.path.read_bytes()
    assert all((one.store / name).read_bytes() == (other.store / name).read_bytes() for name in one.objects)
    cost = json.loads((tmp_path / "whole" / "costs" / "predict" / "m" / "w.json").read_text())
    assert cost["core_px"] == 1280 and cost["planned_mb"] > 500 and cost["peak_mb"] > 100


def test_a_damaged_shard_of_the_image_is_told(chain: Chain, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "d.tif", np.zeros((100, 100), np.uint8))
    image = tmp_path / "images" / "d.json"
    ingest(tmp_path / "d.tif", output=image, spec=IngestSpec(), code="i@1")
    shard = read_manifest(image).store / "0" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[4] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="damaged at"):
        probabilities_of(image, chain, tmp_path / "probabilities" / "m" / "d.json")


def probabilities_of(image: Path, chain: Chain, output: Path) -> None:
    """Predict with the planned core."""
    predict(image, [chain["models/m"]], output=output, spec=PredictSpec(), code="p@1", threads=1)


def test_precision_is_part_of_the_result(chain: Chain, tmp_path: Path) -> None:
    exact = open_plane(read_manifest(chain["probabilities/m/b"]).store / "0").read_whole().astype(int)
    output = tmp_path / "probabilities" / "m" / "b.json"
    keys = {"output": output, "code": "p@1", "threads": 1}
    predict(chain["images/b"], [chain["models/m"]], spec=PredictSpec(core_px=32, precision="bfloat16"), **keys)
    found = open_plane(read_manifest(output).store / "0").read_whole().astype(int)
    assert 0 < np.abs(found - exact).max() < 0.05 * 65535
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"predict\.precision: float16 needs a GPU"):
            predict(chain["images/b"], [chain["models/m"]], spec=PredictSpec(precision="float16"), **keys)
        assert (open_plane(read_manifest(output).store / "0").read_whole() == found).all(), "what was there stays"


def test_what_does_not_fit_the_model_is_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="use 16 or 18"):
        probabilities(chain, tmp_path / "probabilities" / "m" / "b.json", 17)
    image = tmp_path / "images" / "rgb.json"
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    ingest(tmp_path / "rgb.tif", output=image, spec=IngestSpec(), code="i@1")
    keys = {"output": tmp_path / "x.json", "code": "p@1", "threads": 1}
    with pytest.raises(ModelError, match=r"expected 1 channel\(s\).*came 3"):
        predict(image, [chain["models/m"]], spec=PredictSpec(), **keys)
    with pytest.raises(ModelError, match=r"m\.json: expected 3 classes as the configuration lists, came 2"):
        predict(chain["images/b"], [chain["models/m"]], spec=PredictSpec(n_classes=3), **keys)
    other = random_model(tmp_path / "models" / "o.json", NETWORK, pixel_size_um=0.5)
    tifffile.imwrite(tmp_path / "g.tif", np.zeros((9, 9), np.uint8))
    spec = IngestSpec(source_pixel_size_um=0.25)
    ingest(tmp_path / "g.tif", output=tmp_path / "images" / "g.json", spec=spec, code="i@1")
    with pytest.raises(ModelError, match=r"expected pixels of 0\.5 um as model o was trained on, came 0\.25 um"):
        predict(tmp_path / "images" / "g.json", [other], spec=PredictSpec(), **keys)
    assert [path.name for path in tmp_path.glob("*x*")] == [], "nothing is written"


@pytest.mark.parametrize(
    ("rule", "dtype", "high", "said"),
    [
        ("range", np.float32, 1.0, ""),
        ("range", np.float32, 255.0, "to 25.*, where model r takes 0 to 1 for"),
        ("percentile", np.float32, 255.0, ""),
        ("range", np.uint16, 65535, ""),
        ("range", np.uint16, 4095, "to 40.*, where model r takes 0 to 6.*e.04 for"),
        ("percentile", np.uint16, 4095, ""),
        ("range", np.uint8, 255, ""),
    ],
)
def test_grey_values_that_do_not_fit_the_rule_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rule: str, dtype: Any, high: float, said: str
) -> None:
    pixels = (np.random.default_rng(0).random((40, 40)) * high).astype(dtype)
    tifffile.imwrite(tmp_path / "i.tif", pixels)
    image = tmp_path / "images" / "i.json"
    ingest(tmp_path / "i.tif", output=image, spec=IngestSpec(), code="i@1")
    model = random_model(tmp_path / "models" / "r.json", NETWORK, intensity=rule)
    check_fit(read_manifest(image), [read_manifest(model)], 2)
    told = [text for text in caplog.messages if "grey values" in text]
    assert len(told) == bool(said) and all(re.search(said, text) for text in told)


def test_every_shard_is_written_once_and_whole(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all stages from the slide to its objects: to write part of a shard, zarr reads and writes it whole."""
    written: list[tuple[Path, Box]] = []
    plain = Plane.write_shard

    def recorded(plane: Plane, box: Box, block: np.ndarray, **keys: Any) -> str:
        assert block.shape[-2:] == box.shape
        written.append((plane.folder, box))
        return plain(plane, box, block, **keys)

    def refused(*_: Any) -> None:
        raise AssertionError("zarr was given pixels")

    monkeypatch.setattr(Plane, "write_shard", recorded)
    monkeypatch.setattr(zarr.Array, "__setitem__", refused)
    image, output = tmp_path / "images" / "w.json", tmp_path / "probabilities" / "m" / "w.json"
    tifffile.imwrite(tmp_path / "w.tif", np.random.default_rng(3).integers(0, 255, (1100, 2100), np.uint8))
    spec = IngestSpec(tissue="brightness", source_pixel_size_um=0.5)
    ingest(tmp_path / "w.tif", output=image, spec=spec, code="i@1")
    predict(image, [chain["models/m"]], output=output, spec=PredictSpec(core_px=2048), code="p@1", threads=1)
    segment(output, image, output=tmp_path / "segmentations" / "m" / "w.json", spec=SegmentSpec(), code="s@1")
    arrays = [path.parent for path in tmp_path.rglob("zarr.json") if '"array"' in path.read_text()]
    assert len(arrays) > 4
    expected = [(folder, box) for folder in arrays for _, box in open_plane(folder).iter_shards()]
    assert sorted(map(repr, written)) == sorted(map(repr, expected))
