"""Scale bars and frames, against hand-worked numbers; the pictures are tested with the page."""

import numpy as np

from unetpipe.figures import View, frame, scale_bar
from unetpipe.geometry import Box


def test_a_scale_bar_is_a_round_length_of_at_most_a_quarter() -> None:
    view = View(name="whole", level=2, box=Box(start=(0, 0), stop=(100, 500)), factor=1)
    assert scale_bar(view, 0.5) == (20.0, "200 µm")
    assert scale_bar(view, 10.0) == (25.0, "5 mm")
    assert scale_bar(view, None) == (25.0, "500 px")
    for size in np.geomspace(1e-3, 1e3, 97):
        percent, _ = scale_bar(view, float(size))
        assert 10 - 1e-9 <= percent <= 25 + 1e-9


def test_the_frame_is_where_the_detail_is() -> None:
    whole = View(name="whole", level=2, box=Box(start=(0, 0), stop=(50, 100)), factor=1)
    detail = View(name="detail", level=0, box=Box(start=(100, 40), stop=(200, 120)), factor=1)
    assert frame([whole, detail]) == (10.0, 50.0, 20.0, 50.0)
    assert frame([whole]) is None
