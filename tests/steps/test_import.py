"""Public weights become a model that predicts like a trained one."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch

from unetpipe.checkpoints import read_weights
from unetpipe.errors import ConfigError, GeometryError, ModelError, StoreError
from unetpipe.manifests import read_manifest
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks.padded_unet import PaddedUnet, build, to_indexed_names
from unetpipe.slides import open_plane
from unetpipe.specs import ImportSpec, IngestSpec, PredictSpec
from unetpipe.steps.import_ import import_
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.steps.verify import verify

from .conftest import Chain

SIDE = 40
# One logit, as published.
SPEC = PaddedUnetSpec(features=(4, 8), head="sigmoid")
BILINEAR = PaddedUnetSpec(features=(4, 8), up="bilinear", align_corners=True, head="sigmoid")


def network_of(spec: PaddedUnetSpec) -> PaddedUnet:
    """A network whose batch norms have seen noise."""
    network = build(spec, seed=5)
    generator = torch.Generator().manual_seed(5)
    for _ in range(40):
        network(torch.rand(2, spec.channels, 16, 16, generator=generator))
    return network.eval()


def saved(folder: Path, spec: PaddedUnetSpec = SPEC) -> Path:
    """A file as training scripts publish it."""
    path = folder / "public.pth"
    torch.save(network_of(spec).state_dict() | {"mask_values": [0, 1]}, path)
    return path


def imported(weights: Path, output: Path, **options: object) -> Path:
    """The manifest that an import has written."""
    import_(weights, output=output, spec=ImportSpec(**options), code="import_@1")  # type: ignore[arg-type]
    return output


def source(folder: Path) -> tuple[np.ndarray, Path]:
    """Grey values of a small image, and its manifest."""
    grey = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    tifffile.imwrite(folder / "noise.tif", grey)
    ingest(folder / "noise.tif", output=folder / "images" / "noise.json", spec=IngestSpec(), code="i@1")
    return grey, folder / "images" / "noise.json"


def predicted(image: Path, model: Path, folder: Path, core_px: int) -> np.ndarray:
    """Probabilities (K, Y, X) that `predict` stores."""
    output = folder / "probabilities" / "m" / "noise.json"
    predict(image, [model], output=output, spec=PredictSpec(core_px=core_px), code="p@1", threads=1)
    return open_plane(read_manifest(output).store / "0").read_whole() / 65535


@pytest.mark.parametrize(("spec", "core_px"), [(SPEC, 48), (SPEC, 16), (BILINEAR, 48)])
def test_an_imported_model_predicts_what_its_network_computes(
    tmp_path: Path, spec: PaddedUnetSpec, core_px: int
) -> None:
    model = imported(saved(tmp_path, spec), tmp_path / "models" / "m.json")
    grey, image = source(tmp_path)
    context = spec.geometry.context
    mirrored = np.pad(grey.astype(np.float32) / 255, context, mode="reflect")
    with torch.no_grad():
        logit = network_of(spec)(torch.from_numpy(mirrored)[None, None])[0, 0]
    expected = torch.sigmoid(logit)[context:-context, context:-context].numpy()
    found = predicted(image, model, tmp_path, core_px)
    assert np.abs(found[1] - expected).max() <= 1e-5
    assert np.abs(found[0] - (1 - expected)).max() <= 1e-5
    assert expected.std() > 1e-2


def test_a_network_that_cannot_be_tiled_takes_whole_images_only(tmp_path: Path) -> None:
    model = imported(saved(tmp_path, BILINEAR), tmp_path / "models" / "m.json")
    image = source(tmp_path)[1]
    with pytest.raises(GeometryError, match="cannot be tiled"):
        predicted(image, model, tmp_path, 16)
    model = imported(saved(tmp_path, BILINEAR), tmp_path / "models" / "n.json", align_corners=False)
    assert predicted(image, model, tmp_path, 16).shape == (2, SIDE, SIDE)


def test_parameters_come_over_bit_by_bit(tmp_path: Path) -> None:
    weights = saved(tmp_path)
    output = imported(weights, tmp_path / "models" / "m.json", pixel_size_um=0.25, intensity="percentile")
    model, state = read_manifest(output, stage="train"), network_of(SPEC).state_dict()
    found = read_weights(model.store / "weights.safetensors", digest=model.facts["weights"])
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert (model.facts["pixel_size_um"], model.facts["intensity"]) == (0.25, "percentile")
    assert model.facts["parameters"] == sum(p.numel() for p in network_of(SPEC).parameters())
    card = json.loads((model.store / "card.json").read_text())
    assert card["sha256"] == model.facts["weights"]
    assert list(card["sources"]) == ["source/public.pth"]
    before = output.stat().st_mtime_ns, output.read_bytes()
    imported(weights, output, pixel_size_um=0.25, intensity="percentile")
    assert output.read_bytes() == before[1]
    # The same network in a file of the other form, of the other kind.
    safetensors.torch.save_file(to_indexed_names(state, depth=2), tmp_path / "listed.safetensors")
    other = read_manifest(imported(tmp_path / "listed.safetensors", tmp_path / "models" / "o.json"))
    assert other.facts["weights"] == model.facts["weights"]
    assert other.facts["network"] == model.facts["network"] | {"fit": "resize"}


class Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("way", ["plain", "protocol 2", "saved", "old", "among tensors"])
def test_a_pickle_that_wants_more_is_refused_and_not_executed(tmp_path: Path, way: str) -> None:
    weights, payload = tmp_path / "public.pth", Payload(tmp_path / "executed")
    if way in ("plain", "protocol 2"):
        weights.write_bytes(pickle.dumps({"state_dict": payload}, protocol=2 if way == "protocol 2" else None))
    else:
        state = network_of(SPEC).state_dict() if way == "among tensors" else {}
        torch.save(state | {"mask_values": payload}, weights, _use_new_zipfile_serialization=way != "old")
    with pytest.raises(StoreError, match=r"public\.pth: expected.*came a (pickle that wants|file that is)") as caught:
        imported(weights, tmp_path / "models" / "m.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300 + len(str(tmp_path))
    assert list(tmp_path.iterdir()) == [weights]
    torch.load(weights, weights_only=False) if way in ("saved", "old", "among tensors") else pickle.loads(
        weights.read_bytes()
    )
    assert payload.path.exists(), "the payload is live"


def test_a_whole_network_in_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(network_of(SPEC), tmp_path / "public.pt")
    wanted = r"wants to call unetpipe\.networks\.padded_unet\.PaddedUnet.*torch\.save\(network\.state_dict\(\)"
    with pytest.raises(StoreError, match=wanted):
        imported(tmp_path / "public.pt", tmp_path / "models" / "m.json")


@pytest.mark.parametrize("name", ["public.pth", "public.safetensors"])
def test_a_file_that_was_cut_off_leaves_nothing(tmp_path: Path, name: str) -> None:
    weights = tmp_path / name
    torch.save(network_of(SPEC).state_dict(), weights)
    if weights.suffix == ".safetensors":
        safetensors.torch.save_file(network_of(SPEC).state_dict(), weights)
    good = weights.read_bytes()
    for length in range(0, len(good), 1009):
        weights.write_bytes(good[:length])
        with pytest.raises(StoreError, match=f"{name}: expected a state dict.*fetch it again"):
            imported(weights, tmp_path / "models" / "m.json")
    assert list(tmp_path.iterdir()) == [weights]


def test_what_is_no_file_of_parameters(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent\.pth: no such file"):
        imported(tmp_path / "absent.pth", tmp_path / "models" / "m.json")
    with pytest.raises(StoreError, match="came a folder"):
        imported(tmp_path, tmp_path / "models" / "m.json")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other\.pth: state dict of an unknown family"):
        imported(tmp_path / "other.pth", tmp_path / "models" / "m.json")
    torch.save(network_of(PaddedUnetSpec(features=(4,), classes=255 - 1)).state_dict(), tmp_path / "many.pth")
    state = torch.load(tmp_path / "many.pth")
    state |= {"outc.conv.weight": torch.zeros(300, 4, 1, 1), "outc.conv.bias": torch.zeros(300)}
    torch.save(state, tmp_path / "many.pth")
    with pytest.raises(ModelError, match=r"many\.pth: classes: expected a value at most 254, came 300"):
        imported(tmp_path / "many.pth", tmp_path / "models" / "m.json")


def test_a_training_is_never_overwritten(chain: Chain, tmp_path: Path) -> None:
    before = chain["models/m"].read_bytes()
    with pytest.raises(ConfigError, match="came a training; name another"):
        imported(saved(tmp_path), chain["models/m"])
    assert chain["models/m"].read_bytes() == before
    (tmp_path / "models" / "begun" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="came a training"):
        imported(saved(tmp_path), tmp_path / "models" / "begun.json")
    imported(saved(tmp_path), tmp_path / "models" / "m.json")
    again = imported(saved(tmp_path), tmp_path / "models" / "m.json", intensity="percentile")
    assert read_manifest(again).facts["intensity"] == "percentile"


def test_the_command(tmp_path: Path) -> None:
    saved(tmp_path, BILINEAR)
    words = [
        "import",
        "public.pth",
        "--output",
        "models/m.json",
        "--spec",
        '{"pixel_size_um": 0.5, "align_corners": false}',
    ]
    found = subprocess.run(
        [sys.executable, "-m", "unetpipe", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (found.returncode, found.stdout) == (0, "")
    model = read_manifest(tmp_path / "models" / "m.json", stage="train")
    assert model.code.startswith("import_@")
    assert (model.facts["pixel_size_um"], model.facts["intensity"]) == (0.5, "range")
    assert not model.facts["network"]["align_corners"]


def test_an_imported_network_is_held_against_its_file(tmp_path: Path) -> None:
    weights = saved(tmp_path)
    imported(weights, tmp_path / "results" / "models" / "p.json")
    (tmp_path / "results" / "run.json").write_text(json.dumps({"sources": {"p": {"weights": "public.pth"}}}))
    lines: list[str] = []
    verify(tmp_path / "results", tell=lines.append)
    assert "1 results and sources are as they were written" in lines[0]
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(StoreError, match="1 faults"):
        verify(tmp_path / "results", tell=lines.append)
    assert lines[-1].endswith(f"its source {weights} has changed")
