"""Reading an annotation file as arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetpipe.annotations.truths import open_truth
from unetpipe.geometry import Box
from unetpipe.specs import AnnotateSpec

Read = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """A function that writes an annotation (bytes, or JSON data) and gives its instances and classes."""

    def call(content: Any, shape: tuple[int, int] = (6, 8), image: str = "a.tif", axes: Any = (), **keys: Any):
        path = tmp_path / "annotation"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        keys["n_classes"] = len(keys.get("classes", ())) or keys.get("n_classes", 2)
        box = Box(start=(0, 0), stop=shape)
        with open_truth(path, AnnotateSpec(**keys), shape=shape, image=image, axes=axes) as truth:
            truth.prepare([box])
            return truth.instances(box), truth.classes(box)

    return call
