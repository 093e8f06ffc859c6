"""The page on formats says what becomes of every real file, and it is true."""

from pathlib import Path

import pytest

from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.manifests import read_manifest
from unetpipe.slides import open_plane
from unetpipe.sources.images import checked_image_block, image_dtype, open_source
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"


def became(path: Path, plane: int | None = None) -> str:
    """What a source comes in as, in the words of the page."""
    try:
        with open_source(path, plane=plane) as source:
            sides = source.pixel_sides_um
            size = f", {sides[1]:.4f} µm" if sides else ", pixel size unknown"
            kept = image_dtype(source.dtype, path)
            return f"{source.shape[0]} x {source.shape[1]} px, {source.channels} x {kept}{size}"
    except SourceError as error:
        return f"refused: {str(error).removeprefix(f'{path}: ')}; with one, {became(path, 0)}"


def test_the_page_lists_every_real_file(data_folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [f"| `{path.name}` | {became(path)} |" for path in sorted((data_folder / "wsi").iterdir())]
    assert len(rows) > 16
    assert [row for row in rows if not any(line.startswith(row) for line in page)] == []


@pytest.mark.slow
def test_every_real_file_is_ingested(data_folder: Path, tmp_path: Path) -> None:
    for path in sorted((data_folder / "wsi").iterdir()):
        plane = 0 if path.name.startswith("multi") else None
        ingest(path, output=tmp_path / "images" / "a.json", spec=IngestSpec(plane=plane), code="ingest@0")
        image = read_manifest(tmp_path / "images" / "a.json", stage="ingest")
        with open_source(path, plane=plane) as source:
            assert image.facts["shape"] == list(source.shape)
            height, width = source.shape
            for y, x in ((0, 0), (height // 2, width // 3), (height - 90, width - 80)):
                box = Box(start=(y, x), stop=(y + 90, x + 80)).clipped(source.shape)
                pixels = checked_image_block(source.read(box), path)
                assert (open_plane(image.store / "0").read(box) == pixels).all(), path
