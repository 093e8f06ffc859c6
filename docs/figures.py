"""Make the figures of README.md from a finished default run.

Run in the folder of the repository, behind `make run`: python docs/figures.py  (needs Graphviz' dot for the second one)
"""

import subprocess
from pathlib import Path

import imagecodecs
import numpy as np

REPORT = Path("results/report")
DOCS = Path("docs")


def layered(base: str, *layers: str) -> np.ndarray:
    """A picture of the report with its outlines laid over it, (Y, X, 3) uint8."""
    picture = np.asarray(imagecodecs.imread(REPORT / base), dtype=np.float64)
    picture = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
    for name in layers:
        layer = imagecodecs.imread(REPORT / name).astype(np.float64)
        opacity = layer[..., 3:] / 255
        factor = layer.shape[0] // picture.shape[0]
        picture = np.kron(picture, np.ones((factor, factor, 1))) * (1 - opacity) + layer[..., :3] * opacity
    return picture.round().astype(np.uint8)


def result() -> None:
    """The slide as a whole and in detail, side by side."""
    whole = layered("whole/image/slide1.png", "whole/prediction/unet16/slide1.png")
    detail = layered("detail/image/slide1.png", "detail/prediction/unet16/slide1.png")
    side = min(len(whole), len(detail), 640)
    parts = [picture[:: len(picture) // side, :: len(picture) // side][:side, :side] for picture in (whole, detail)]
    gap = np.full((side, 12, 3), 255, np.uint8)
    (DOCS / "result.png").write_bytes(imagecodecs.png_encode(np.hstack([parts[0], gap, parts[1]]), level=9))


def dag() -> None:
    """The rules and what they hand on, as Snakemake knows them."""
    command = ["snakemake", "--rulegraph", "--forceall"]
    graph = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    look = 'rankdir=LR; bgcolor="white"; node [fontname="Helvetica", fontsize=14];'
    start = graph.index("digraph")
    text = graph[start:].replace("{", "{" + look, 1)
    subprocess.run(["dot", "-Tpng", "-Gdpi=110", "-o", DOCS / "dag.png"], input=text, check=True, text=True)


if __name__ == "__main__":
    result()
    dag()
