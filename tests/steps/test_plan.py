"""The table of tiles that predict would take."""

from pathlib import Path

from unetpipe.planning import plan_tiles
from unetpipe.specs import PredictSpec, UnetSpec
from unetpipe.steps.plan import plan

from .conftest import Chain

SHEET = "sample\timage\tannotation\tsplit\na\ta.tif\ta.png\ttrain\nb\tb.tif\t\tpredict\nc\tc.tif\t\tpredict\n"
CONFIG = """
samples: {sheet}
augment: {{input_px: 60}}
models:
  m: {{network: {{depth: 2, base_width: 4}}}}
  whole: {{network: {{family: dilated_unet, form: printed, depth: 2, base_width: 4}}}}
"""


def test_every_model_and_ingested_image_has_a_line(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text(SHEET)
    (tmp_path / "c.yaml").write_text(CONFIG.format(sheet=tmp_path / "s.tsv"))
    header, *lines = plan(tmp_path / "c.yaml", images=chain["images/b"].parent)
    assert header.split()[:4] == ["model", "sample", "height", "width"]
    cells = [line.split() for line in lines]
    # c was not ingested. A network that cannot be tiled needs to know the image.
    assert [row[:2] for row in cells] == [["m", "any"], ["m", "b"], ["whole", "any"], ["whole", "b"]]
    assert "expected at least" in lines[2]
    expected = plan_tiles([UnetSpec(depth=2, base_width=4)], PredictSpec(), shape=(90, 90))
    assert cells[1][2:7] == ["90", "90", str(expected.core_px), str(expected.window_px), "1"]
    assert cells[1][-1] == f"{expected.work:.3f}"
