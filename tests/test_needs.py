"""What jobs ask for suffices, is not absurd, and grows with each attempt."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unetpipe.config import Config, read_config
from unetpipe.footprint import step_bytes
from unetpipe.needs import LONGEST_MIN, needs, requests, step_mb, unpacked_mb
from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, PaddedUnetSpec, UnetSpec
from unetpipe.planning import plan_whole
from unetpipe.specs import TrainSpec

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = [
    UnetSpec(),
    UnetSpec(base_width=16),
    UnetSpec(base_width=8, depth=5),
    PaddedUnetSpec(),
    PaddedUnetSpec(features=(16, 32, 64), up="bilinear"),
    DilatedUnetSpec(base_width=32),
    KerasUnetSpec(),
]
# Largest resident memory in MB that the jobs of the default configuration had, as their benchmark files say.
PEAKS = {"simulate": 186, "ingest": 150, "annotate": 88, "weigh": 187, "augment": 231, "train": 699, "predict": 736}
PEAKS |= {"segment": 263, "evaluate": 222, "report": 173}


@pytest.fixture(scope="module")
def default() -> Config:
    """The default configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return read_config(Path("config/config.yaml"))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: f"{n.family}-{n.depth}")
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_training_step_is_counted_with_a_margin(network: Any, optimiser: Any) -> None:
    spec = TrainSpec(network=network, optimiser=optimiser, average=0.9 if optimiser == "adamw" else 0.0)
    side = network.geometry.side_within(380)
    assert 1.2 < step_mb(spec, side) * 1e6 / step_bytes(spec, side) < 4.5


@pytest.mark.parametrize("stage", PEAKS)
def test_the_default_configuration_has_what_it_takes(default: Config, stage: str) -> None:
    found = needs(default, stage, sample="slide1" if stage in ("predict", "segment") else "train1", model="unet16")
    assert 1.5 * PEAKS[stage] < found.mem_mb < 4000
    assert 10 <= found.runtime <= 120
    assert 1 <= found.disk_mb < 500


def test_every_attempt_asks_for_more(default: Config) -> None:
    asked = requests(default)("train")
    wildcards = SimpleNamespace(get={"model": "unet16"}.get)
    names = ("mem_mb", "runtime", "disk_mb")
    first, second = ([asked[name](wildcards, attempt) for name in names] for attempt in (1, 2))
    assert second == [2 * value for value in first]
    assert asked["runtime"](wildcards, 99) == LONGEST_MIN


def test_what_is_held_as_a_whole_is_asked_for(default: Config, tmp_path: Path) -> None:
    """A validation image of 10 Mpx, seen as a whole by a network that cannot be tiled, and thinned scores of it."""
    path, sheet = tmp_path / "v.tif", tmp_path / "samples.tsv"
    with path.open("wb") as file:
        file.truncate(5_000_000)
    rows = [f"{name}\t{path}\t{path}\t{split}" for name, split in (("a", "train"), ("v", "val"), ("t", "test"))]
    sheet.write_text("\n".join(["sample\timage\tannotation\tsplit", *rows]))
    forms = {form: {"network": {"family": "dilated_unet", "form": form}} for form in ("printed", "aligned")}
    config = read_config(default.document | {"samples": str(sheet), "models": forms})
    whole, tiled = (needs(config, "train", model=name).mem_mb for name in forms)
    side = 3163
    expected = plan_whole(config.models["printed"].network, (side, side)).host_bytes / 1e6
    # Maps of 64 channels and more, each taken twice.
    assert expected > 2 * 4 * 64 * 10 and whole - tiled == pytest.approx(expected - 500, abs=2)
    thinned = needs(config, "evaluate", sample="t", model="printed").mem_mb
    assert thinned == 1500 + 40 * 10


def test_larger_networks_ask_for_more_and_slides_for_no_more_memory(default: Config, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)
    assert unpacked_mb(path) == 24_000
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(f"sample\timage\tannotation\tsplit\na\t{path}\t{path}\ttrain\np\t{path}\t\tpredict\n")
    models = {"small": {"network": {"base_width": 8}}, "large": {"network": {"base_width": 64}}}
    config = read_config(default.document | {"samples": str(sheet), "models": models})
    small, large = (needs(config, "predict", sample="p", model=name) for name in models)
    assert small.mem_mb < large.mem_mb < 8000 and small.runtime < large.runtime == LONGEST_MIN
    assert needs(config, "ingest", sample="p").mem_mb == needs(default, "ingest", sample="slide1").mem_mb
    assert needs(config, "ingest", sample="p").disk_mb == 33_600
