"""One tiny chain of stages, made once by the stages themselves."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.checkpoints import write_weights
from unetpipe.geometry import Box
from unetpipe.ledgers import open_ledger
from unetpipe.networks import build_network
from unetpipe.phantoms import phantom_image, phantom_labels
from unetpipe.specs import (
    AnnotateSpec,
    AugmentSpec,
    IngestSpec,
    PredictSpec,
    SegmentSpec,
    TrainSpec,
    UnetSpec,
    WeighSpec,
)
from unetpipe.steps.annotate import annotate
from unetpipe.steps.augment import augment
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.steps.segment import segment
from unetpipe.steps.train import train
from unetpipe.steps.weigh import weigh

SIDE = 90
NETWORK = UnetSpec(depth=1, base_width=4)
AUGMENT = AugmentSpec(copies=3, input_px=50, output_px=34, elastic_sigma_px=2.0)
TRAIN = TrainSpec(network=NETWORK, steps=12, validate_every=6, learning_rate=0.005, momentum=0.9)


@dataclass(frozen=True)
class Chain:
    """Where the results of the chain lie."""

    root: Path

    def __getitem__(self, name: str) -> Path:
        """The manifest of a result, such as ``images/a``."""
        return self.root / f"{name}.json"


def random_model(
    path: Path, network: UnetSpec, *, intensity: str = "range", pixel_size_um: float | None = None
) -> Path:
    """A model that has learned nothing."""
    with open_ledger(path, stage="train", spec=TrainSpec(network=network), code="t@0") as ledger:
        digest = write_weights(ledger.store / "weights.safetensors", build_network(network, seed=1).state_dict())
        ledger.append("weights", digest)
        facts = {"network": asdict(network), "intensity": intensity, "pixel_size_um": pixel_size_um}
        ledger.publish(facts | {"weights": digest})
    return path


def write_sources(folder: Path) -> None:
    """Images a (to train) and b (to validate) with instances."""
    folder.mkdir(parents=True)
    for seed, name in enumerate("ab"):
        box = Box(start=(0, 0), stop=(SIDE, SIDE))
        tifffile.imwrite(folder / f"{name}.tif", phantom_image(box, shape=(SIDE, SIDE), seed=seed, diameter_px=20.0))
        labels = phantom_labels(box, shape=(SIDE, SIDE), seed=seed, diameter_px=20.0)
        tifffile.imwrite(folder / f"{name}_labels.tif", labels.astype(np.uint16))


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp("chain")
    sources, made = root / "sources", Chain(root)
    write_sources(sources)
    for name in "ab":
        ingest(sources / f"{name}.tif", output=made[f"images/{name}"], spec=IngestSpec(), code="i@1")
        labels = sources / f"{name}_labels.tif"
        annotate(labels, made[f"images/{name}"], output=made[f"labels/{name}"], spec=AnnotateSpec(), code="a@1")
    weigh(made["labels/a"], output=made["weights/a"], spec=WeighSpec(), code="w@1")
    inputs = [made["images/a"], made["labels/a"], made["weights/a"]]
    augment(*inputs, output=made["patches/a"], spec=AUGMENT, code="g@1")
    inputs = [made["patches/a"], made["images/b"], made["labels/b"]]
    train(inputs, output=made["models/m"], spec=TRAIN, code="t@1", threads=1)
    model, image, probabilities = made["models/m"], made["images/b"], made["probabilities/m/b"]
    predict(image, [model], output=probabilities, spec=PredictSpec(core_px=32), code="p@1", threads=1)
    segment(probabilities, image, output=made["segmentations/m/b"], spec=SegmentSpec(min_area_px=5), code="s@1")
    return made
