"""What is exported carries its rules, and computes what the network computes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaozarrs
import zarr
from safetensors import safe_open

from unetpipe.checkpoints import read_weights
from unetpipe.errors import ConfigError, GeometryError, ModelError, StoreError
from unetpipe.geometry import Box, NetGeometry, TileGrid, padded_geometry, unet_geometry
from unetpipe.inference import predict_image
from unetpipe.manifests import read_manifest
from unetpipe.netspecs import PaddedUnetSpec, network_spec
from unetpipe.networks import build_network
from unetpipe.programs import ONNX_PACKAGES, load_onnx_program, load_torch_program
from unetpipe.slides import open_plane
from unetpipe.sources.files import sha256_of_file
from unetpipe.sources.images import open_source
from unetpipe.specs import ImportSpec
from unetpipe.steps import export as step
from unetpipe.steps.export import default_window, export, export_combined, export_pyramids, largest_core
from unetpipe.steps.import_ import import_

from .conftest import NETWORK, Chain

MISSING = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def network_of(chain: Chain) -> torch.nn.Module:
    """The trained network of the chain, from its own store."""
    model = read_manifest(chain["models/m"])
    network = build_network(NETWORK, seed=0)
    network.load_state_dict(read_weights(model.store / "weights.safetensors", digest=model.facts["weights"]))
    return network.eval()


def test_parameters_come_over_bit_by_bit_with_their_card(chain: Chain, tmp_path: Path) -> None:
    export(chain["models/m"], output=tmp_path / "out")
    model, state = read_manifest(chain["models/m"]), network_of(chain).state_dict()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.safetensors", "m.safetensors.json"]
    with safe_open(tmp_path / "out" / "m.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(state)
        assert all(torch.equal(file.get_tensor(name), state[name]) for name in state)
        inside = json.loads(file.metadata()["unetpipe"])
    beside = json.loads((tmp_path / "out" / "m.safetensors.json").read_text())
    assert beside.pop("file") == "m.safetensors"
    assert beside.pop("sha256") == sha256_of_file(tmp_path / "out" / "m.safetensors")
    assert inside == beside
    assert network_spec(inside["network"]) == NETWORK
    assert NetGeometry(**inside["geometry"]) == NETWORK.geometry
    assert inside["digests"] == {"model": model.content, "weights": model.facts["weights"]}
    assert (inside["seed"], inside["classes"], inside["intensity"]["rule"]) == (1, 2, "percentile")
    assert inside["pixel_size_um"] is None


def test_the_same_model_gives_the_same_bytes(chain: Chain, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        export(chain["models/m"], output=tmp_path / folder)
        export(chain["models/m"], output=tmp_path / folder, form="torch", side=20)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_program_and_its_card_are_enough_to_predict_an_image(chain: Chain, tmp_path: Path) -> None:
    """Tiles laid by the card's numbers alone give what the network gives."""
    export(chain["models/m"], output=tmp_path, form="torch", side=52)
    program, text = load_torch_program((tmp_path / "m.pt2").read_bytes())
    card = json.loads(text)
    geometry, window, core = card["geometry"], card["window_px"], card["core_px"]
    assert (window, core) == (52, 36)
    image = np.random.default_rng(1).random((1, 50, 61), dtype=np.float32)
    found = np.zeros((2, 50, 61), np.float32)
    margin = geometry["context"] - geometry["shrink"] // 2
    rim = geometry["context"] + window
    mirrored = np.pad(image[0], rim, mode="reflect")
    for y in range(0, 50, core):
        for x in range(0, 61, core):
            y0, x0 = y - geometry["context"] + rim, x - geometry["context"] + rim
            logits = program(torch.from_numpy(mirrored[None, None, y0 : y0 + window, x0 : x0 + window].copy()))
            part = torch.softmax(logits, dim=1)[0, :, margin : margin + core, margin : margin + core].detach().numpy()
            height, width = found[:, y : y + core, x : x + core].shape[1:]
            found[:, y : y + core, x : x + core] = part[:, :height, :width]
    device = torch.device("cpu")
    expected = predict_image(network_of(chain), image, NETWORK.geometry, core_side=16, device=device)
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_an_onnx_file_computes_the_networks_logits(chain: Chain, tmp_path: Path) -> None:
    export(chain["models/m"], output=tmp_path, form="onnx", side=36)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.json"]
    run, text = load_onnx_program((tmp_path / "m.onnx").read_bytes())
    assert json.loads(text)["window_px"] == 36
    images = torch.rand(3, 1, 36, 36)
    with torch.no_grad():
        assert float((run(images) - network_of(chain)(images)).abs().max()) <= 1e-5


def test_without_its_packages_onnx_names_the_extra(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetpipe.programs.ONNX_PACKAGES", ("onnx_of_another_world",))
    with pytest.raises(ConfigError, match=r"missing: onnx_of_another_world; .*\[onnx\]"):
        export(chain["models/m"], output=tmp_path / "out", form="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
def test_the_default_window_is_the_smallest_with_a_core_of_512(depth: int) -> None:
    for geometry in (unet_geometry(depth), padded_geometry(depth, spread=1)):
        window = default_window(geometry)
        tile = TileGrid(shape=(4096, 4096), core_side=512, geometry=geometry).tile(0)
        assert (window, window) == tile.window.shape
        assert largest_core(geometry, window) >= 512
        assert largest_core(geometry, window - geometry.stride) < 512
    assert default_window(unet_geometry(4)) == 700


def test_illegal_sides_are_refused_before_anything_is_written(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"21 px is not legal.*use 20 or 22"):
        export(chain["models/m"], output=tmp_path / "out", form="torch", side=21)
    with pytest.raises(StoreError, match="expected a manifest of stage train"):
        export(chain["images/a"], output=tmp_path / "out")
    with pytest.raises(ConfigError, match="--side is for"):
        export(chain["models/m"], output=tmp_path / "out", side=20)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_what_computes_something_else_is_not_kept(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A file that does not hold what it should leaves nothing behind, and an older one as it was."""
    monkeypatch.setattr(step, "largest_difference", lambda *_: 1.1e-5)
    with pytest.raises(ModelError, match=r"came a difference of 1\.1e-05; the file is not kept"):
        export(chain["models/m"], output=tmp_path / "out", form=form)  # type: ignore[arg-type]
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    export(chain["models/m"], output=tmp_path / "out", form=form)  # type: ignore[arg-type]
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(step, "largest_difference", lambda *_: float("inf"))
    with pytest.raises(ModelError):
        export(chain["models/m"], output=tmp_path / "out", form=form)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_program_of_another_network_is_noticed(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = build_network(NETWORK, seed=9).eval()
    real = step.torch_program
    monkeypatch.setattr(step, "torch_program", lambda _, **keys: real(other, **keys))
    with pytest.raises(ModelError, match="came a difference of"):
        export(chain["models/m"], output=tmp_path, form="torch", side=20)
    monkeypatch.setattr(step, "torch_program", lambda network, **keys: real(network, **keys | {"card": "{}"}))
    with pytest.raises(ModelError, match="came a changed card"):
        export(chain["models/m"], output=tmp_path, form="torch", side=20)
    assert list(tmp_path.iterdir()) == []


def test_there_and_back_again(tmp_path: Path) -> None:
    """An imported model leaves, and comes back as the same parameters; one that cannot be tiled says so."""
    spec = PaddedUnetSpec(features=(4, 8), up="bilinear", align_corners=True, classes=3)
    torch.save(build_network(spec, seed=1).state_dict(), tmp_path / "public.pth")
    first, second = tmp_path / "models" / "first.json", tmp_path / "models" / "second.json"
    import_(tmp_path / "public.pth", output=first, spec=ImportSpec(), code="import_@1")
    export(first, output=tmp_path / "out")
    import_(tmp_path / "out" / "first.safetensors", output=second, spec=ImportSpec(), code="import_@1")
    assert read_manifest(second).facts == read_manifest(first).facts
    export(second, output=tmp_path / "out", form="torch", side=33)
    card = json.loads((tmp_path / "out" / "second.pt2.json").read_text())
    assert "whole" in card["tiling"] and "core_px" not in card
    assert card["seed"] is None


def test_the_command(chain: Chain, tmp_path: Path) -> None:
    words = ["export", str(chain["models/m"]), "--output", "out", "--format", "torch", "--side", "20"]
    command = [sys.executable, "-m", "unetpipe", *words]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "")
    assert found.stderr.splitlines() == ["unetpipe: out/m.pt2: written, and held against the network"]


def test_images_and_labels_for_old_viewers(chain: Chain, tmp_path: Path) -> None:
    for name in ("images/a", "labels/b", "probabilities/m/b", "segmentations/m/b"):
        export_pyramids(chain[name], output=tmp_path / name.split("/")[0])
    for name, written in (("images", ["a"]), ("probabilities", ["b"]), ("labels", ["b-classes", "b-instances"])):
        assert sorted(p.stem for p in (tmp_path / name).iterdir()) == written
    with open_source(tmp_path / "images" / "a.zarr") as source:
        box = Box(start=(0, 0), stop=source.shape)
        assert np.array_equal(source.read(box), open_plane(read_manifest(chain["images/a"]).store / "0").read_whole())
    with pytest.raises(ConfigError, match="expected a result with images, came one of stage train"):
        export_pyramids(chain["models/m"], output=tmp_path / "out")


def test_an_image_and_its_labels_in_one(chain: Chain, tmp_path: Path) -> None:
    segmentation, image = read_manifest(chain["segmentations/m/b"]), read_manifest(chain["images/b"])
    for name in ("segmentations/m/b", "labels/b"):
        export_combined(chain[name], output=tmp_path / name)
        yaozarrs.validate_zarr_store(str(tmp_path / name / "b.zarr"))
    group = zarr.open_group(str(tmp_path / "segmentations/m/b/b.zarr"), mode="r")
    assert np.array_equal(group["0"][:], open_plane(image.store / "0").read_whole())
    assert group["labels"].attrs["ome"]["labels"] == ["classes", "instances"]
    for kind in ("classes", "instances"):
        found = open_plane(segmentation.store / kind / "0").read_whole()
        assert np.array_equal(group[f"labels/{kind}/0"][:], found)
        assert group[f"labels/{kind}"].attrs["ome"]["image-label"]["source"] == {"image": "../../"}
    copies = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert not copies, "Python's rglob does not follow links: no pixel lies here"
    with pytest.raises(StoreError, match="is there already"):
        export_combined(chain["labels/b"], output=tmp_path / "labels" / "b")
    with pytest.raises(ConfigError, match="came stage ingest"):
        export_combined(chain["images/b"], output=tmp_path)
