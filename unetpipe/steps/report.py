"""report: one page for people, with scores, curves, pictures, settings and where everything comes from."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import jinja2
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from unetpipe import __version__
from unetpipe.comparison import metric_rows, pooled_scores, ranked
from unetpipe.geometry import Box
from unetpipe.manifests import Ledger, Manifest, open_ledger, read_manifest, write_file
from unetpipe.pictures import Chart, area_layer, chart, crowded_box, enlarged, grey_to_rgb, heat, outline_layer
from unetpipe.schedules import best_row
from unetpipe.slides import Plane, digest_of, open_plane
from unetpipe.specs import ReportSpec
from unetpipe.tissue import mask_block

__all__ = ["report"]

TEMPLATE = Path(__file__).with_name("report.html")
DETAIL_PX = 512
MAX_FACTOR = 4
# Objects drawn with a smaller mean diameter are filled: their outlines would hide the picture.
OUTLINED_PX = 14
# Sky blue and orange of Okabe and Ito 2008; where both lie on each other, the page's blending gives white. Green.
TRUTH, PREDICTION, TISSUE = (86, 180, 233), (230, 159, 0), (0, 158, 115)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The manifests that the page is made of: by sample, by model, or by model and then sample."""

    images: dict[str, Manifest]
    truths: dict[str, Manifest]
    weights: dict[str, Manifest]
    models: dict[str, Manifest]
    segmentations: dict[str, dict[str, Manifest]]
    evaluations: dict[str, dict[str, Manifest]]

    @property
    def names(self) -> list[str]:
        """All models: trained, applied or scored."""
        return sorted({*self.models, *self.segmentations, *self.evaluations})

    @property
    def scored(self) -> list[str]:
        """Samples that were held against their truth."""
        return sorted({sample for by_sample in self.evaluations.values() for sample in by_sample})

    @property
    def unscored(self) -> list[str]:
        """Samples that were segmented only."""
        return sorted({sample for by_sample in self.segmentations.values() for sample in by_sample} - {*self.scored})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a picture shows: a box, in px of a pyramid level, each drawn `factor` times along y and x."""

    name: str
    level: int
    box: Box
    factor: int

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height of the picture in px."""
        return self.box.shape[1] * self.factor, self.box.shape[0] * self.factor


class Album:
    """The pictures of a page: drawn once, written beside it, and known to the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def add(self, name: str, draw: Callable[..., NDArray[np.uint8]], *what: Any) -> str:
        """Write the picture (Y, X, 3 or 4) that `draw` makes of `what`, unless it is there; returns its name."""
        path = self.ledger.store / name
        if name not in self.ledger or not path.is_file():
            picture = draw(*what)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, bytes(imagecodecs.png_encode(without_colour(picture), level=6)))
            self.ledger.append(name, digest_of(picture))
        return name


def report(inputs: Sequence[Path], *, output: Path, spec: ReportSpec, code: str) -> None:
    """Write the page at the end.

    Reads
    -----
    inputs : manifests of `evaluate`, `train`, `segment`, `ingest`, `annotate` and `weigh`
        In any order. A sample is drawn where its image is among them.

    Writes
    ------
    output : manifest
        With the pooled scores; beside it a folder with ``index.html`` and its pictures, and ``costs.tsv`` with what the
        trainings took, which differs from run to run and is no part of the result.
    """
    manifests = sorted((read_manifest(path) for path in inputs), key=lambda m: (m.stage, m.name))
    # The fingerprint of the code does not see the template, so its bytes enter the key.
    with open_ledger(output, stage="report", spec=spec, code=code, inputs=manifests) as ledger:
        if ledger.complete:
            return
        results = sorted_results(manifests)
        config = json.loads(spec.config)
        classes = class_names(config, results)
        pooled = {
            model: pooled_scores([m.facts for m in samples.values()]) for model, samples in results.evaluations.items()
        }
        ranks = ranked(json.loads(spec.groups) or {name: [name] for name in pooled}, pooled, by=spec.rank_by)
        album = Album(ledger)
        text = rendered(
            title=spec.title,
            version=__version__,
            results=results,
            classes=classes,
            metrics=metric_rows(classes),
            pooled=pooled,
            ranks=ranks,
            rank_by=spec.rank_by,
            charts={name: charts(m.facts["history"]) for name, m in results.models.items()},
            kept={name: kept_row(m.facts["history"], m.spec["best_by"]) for name, m in results.models.items()},
            scored=[f for sample in results.scored for f in sample_figures(sample, results, album, spec)],
            unscored=[f for sample in results.unscored for f in sample_figures(sample, results, album, spec)],
            tissues=[tissue_figure(m, album, spec) for m in results.images.values() if m.facts.get("tissue")],
            weights=weight_figure(results, album, spec),
            settings={name: flat(m.spec) for name, m in results.models.items()},
            config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=False),
            manifests=manifests,
            codes=sorted({(m.stage, m.code) for m in manifests} | {("report", code)}),
        )
        write_file(ledger.store / "index.html", text.encode())
        write_file(output.parent / "costs.tsv", costs(results).to_csv(sep="\t", index=False).encode())
        ledger.append("index.html", hashlib.sha256(text.encode()).hexdigest())
        ledger.publish({"scores": pooled, "scored": results.scored, "unscored": results.unscored})


def costs(results: Results) -> pd.DataFrame:
    """Parameters, steps, time per step and memory of every training, as far as they were written down."""
    rows = []
    for name, model in results.models.items():
        path = model.path.parents[1] / "costs" / f"{name}.json"
        measured = json.loads(path.read_text()) if path.is_file() else {}
        rows.append(
            {"network": name, "parameters": model.facts.get("parameters"), "steps": model.facts["steps"]} | measured
        )
    return pd.DataFrame(rows)


def rendered(**page: Any) -> str:
    """The page's HTML; every value is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": count, "plain": plain, "hex": hex_colour}
    environment.globals |= {"truth_colour": TRUTH, "prediction_colour": PREDICTION}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)


def sorted_results(manifests: Sequence[Manifest]) -> Results:
    """The manifests by stage, model and sample."""
    alone: dict[str, dict[str, Manifest]] = {"ingest": {}, "annotate": {}, "weigh": {}, "train": {}}
    paired: dict[str, dict[str, dict[str, Manifest]]] = {"segment": {}, "evaluate": {}}
    for manifest in manifests:
        if manifest.stage in alone:
            alone[manifest.stage][manifest.sample] = manifest
        elif manifest.stage in paired:
            paired[manifest.stage].setdefault(manifest.path.parent.name, {})[manifest.sample] = manifest
    return Results(
        images=alone["ingest"],
        truths=alone["annotate"],
        weights=alone["weigh"],
        models=alone["train"],
        segmentations=paired["segment"],
        evaluations=paired["evaluate"],
    )


def class_names(config: Mapping[str, Any], results: Results) -> list[str]:
    """Names of the classes as configured, with a number where one has none."""
    names = [str(name) for name in config.get("classes", ["background", "foreground"])]
    tables = [m.facts["confusion"] for samples in results.evaluations.values() for m in samples.values()]
    counts = [m.facts["class_counts"] for samples in results.segmentations.values() for m in samples.values()]
    needed = max((len(one) for one in tables + counts), default=0)
    return names + [f"class {index}" for index in range(len(names), needed)]


def sample_figures(sample: str, results: Results, album: Album, spec: ReportSpec) -> Iterator[dict[str, Any]]:
    """Pictures of a sample with outlines, for every model and view; nothing where its image was not given."""
    image, truth = results.images.get(sample), results.truths.get(sample)
    found = {model: samples[sample] for model, samples in results.segmentations.items() if sample in samples}
    if image is None or not found:
        return
    views = chosen_views(image, truth or next(iter(found.values())), spec.preview_px)
    for model, segmentation in found.items():
        evaluation = results.evaluations.get(model, {}).get(sample)
        for view in views:
            layers = [("image", album.add(f"{view.name}/image/{sample}.png", image_picture, image, view))]
            if truth is not None:
                name = f"{view.name}/truth/{sample}.png"
                layers.append(("truth", album.add(name, label_picture, truth, view, TRUTH)))
            name = f"{view.name}/prediction/{model}/{sample}.png"
            layers.append(("prediction", album.add(name, label_picture, segmentation, view, PREDICTION)))
            yield {
                "sample": sample,
                "model": model,
                "view": view,
                "layers": layers,
                "bar": scale_bar(view, image.facts["pixel_size_um"]),
                "frame": frame(views) if view is views[0] else None,
                "image": image.facts,
                "truth": truth.facts if truth else None,
                "segmentation": segmentation.facts,
                "scores": evaluation.facts["scores"] if evaluation else None,
            }


def chosen_views(image: Manifest, labels: Manifest, preview_px: int) -> list[View]:
    """The whole image at a level that fits, and a crowded place at full resolution if that level is coarser."""
    folders = [labels.store / "instances" / str(level) for level in range(image.facts["levels"])]
    shapes = [open_plane(folder).shape for folder in folders]
    whole = whole_view(shapes, preview_px)
    level = whole.level
    if level == 0:
        return [whole]
    side = min(DETAIL_PX, preview_px)
    place = crowded_box(open_plane(folders[level]).read_whole(), max(side >> level, 1))
    return [whole, view_of("detail", 0, box_at(tuple(a << level for a in place.start), side, shapes[0]), preview_px)]


def whole_view(shapes: Sequence[tuple[int, int]], preview_px: int) -> View:
    """All of an image, at the finest level that fits."""
    level = next((i for i, shape in enumerate(shapes) if max(shape) <= preview_px), len(shapes) - 1)
    return view_of("whole", level, Box(start=(0, 0), stop=shapes[level]), preview_px)


def view_of(name: str, level: int, box: Box, preview_px: int) -> View:
    """A view, enlarged as far as fits."""
    return View(name=name, level=level, box=box, factor=min(max(preview_px // max(box.shape), 1), MAX_FACTOR))


def box_at(start: Sequence[int], side: int, shape: tuple[int, int]) -> Box:
    """A square box that begins near `start`, pushed into the image, and cut where the image is smaller."""
    y, x = (max(min(a, n - side), 0) for a, n in zip(start, shape, strict=True))
    return Box(start=(y, x), stop=(y + side, x + side)).clipped(shape)


def frame(views: Sequence[View]) -> tuple[float, ...] | None:
    """Left, top, width and height of the detail in the whole picture, in percent."""
    if len(views) == 1:
        return None
    (height, width), box, scale = views[0].box.shape, views[1].box, 100 / 2 ** views[0].level
    (y, x), (rows, columns) = box.start, box.shape
    return tuple(scale * a / n for a, n in ((x, width), (y, height), (columns, width), (rows, height)))


def image_picture(image: Manifest, view: View) -> NDArray[np.uint8]:
    """(Y, X, 3) picture of a view of an image."""
    limits = [(low, high) for low, high in image.facts["percentiles"]]
    pixels = open_plane(image.store / str(view.level)).read(view.box)
    return enlarged(grey_to_rgb(pixels, limits), view.factor)


def label_picture(labels: Manifest, view: View, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(Y, X, 4) layer with the instances of a view; tiny ones are filled."""
    facts = labels.facts
    mean_px = sum(facts["class_counts"][1:]) / max(facts["n_instances"], 1)
    block = open_plane(labels.store / "instances" / str(view.level)).read(view.box)
    if math.sqrt(mean_px) * view.factor / 2**view.level < OUTLINED_PX:
        return enlarged(area_layer(block, colour), view.factor)
    return outline_layer(block, colour, factor=view.factor)


def scale_bar(view: View, pixel_size_um: float | None) -> tuple[float, str]:
    """Length in percent of the picture's width, and its label: 1, 2 or 5 times a power of ten, at most a quarter."""
    size = (pixel_size_um or 1.0) * 2**view.level
    longest = size * view.box.shape[1] / 4
    power = 10.0 ** math.floor(math.log10(longest))
    length = power * max((step for step in (1, 2, 5) if step * power <= longest), default=1)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    return 100 * length / size / view.box.shape[1], label if pixel_size_um else f"{length:g} px"


def tissue_figure(image: Manifest, album: Album, spec: ReportSpec) -> dict[str, Any]:
    """The outline of the tissue mask on the whole image."""
    shapes = [open_plane(image.store / str(level)).shape for level in range(image.facts["levels"])]
    view = whole_view(shapes, spec.preview_px)
    layers = [
        ("image", album.add(f"whole/image/{image.sample}.png", image_picture, image, view)),
        ("tissue", album.add(f"whole/tissue/{image.sample}.png", tissue_picture, image, view)),
    ]
    bar = scale_bar(view, image.facts["pixel_size_um"])
    return {"sample": image.sample, "view": view, "layers": layers, "bar": bar, "share": image.facts["tissue"]["share"]}


def tissue_picture(image: Manifest, view: View) -> NDArray[np.uint8]:
    """(Y, X, 4) layer with the outline of the tissue mask."""
    mask = open_plane(image.store / "tissue" / "0").read_whole()
    block = mask_block(mask, view.box, level=view.level, mask_level=image.facts["tissue"]["level"])
    return outline_layer(block, TISSUE, factor=view.factor)


def weight_figure(results: Results, album: Album, spec: ReportSpec) -> dict[str, Any] | None:
    """Weights of the first training sample beside its image, around the middle."""
    if not results.weights:
        return None
    sample, manifest = next(iter(results.weights.items()))
    plane: Plane = open_plane(manifest.store / "0")
    side = min(DETAIL_PX, spec.preview_px)
    view = view_of("weights", 0, box_at([(n - side) // 2 for n in plane.shape], side, plane.shape), spec.preview_px)
    top = float(manifest.spec["w0"]) or 1.0
    image = results.images.get(sample)
    return {
        "sample": sample,
        "view": view,
        "map": album.add(f"weights/{sample}.png", weight_picture, plane, view, top),
        "image": album.add(f"weights/image/{sample}.png", image_picture, image, view) if image else None,
        "bar": scale_bar(view, image.facts["pixel_size_um"] if image else None),
        "spec": manifest.spec,
        "top": top,
        "stops": [tuple(rgb) for rgb in heat(np.linspace(0, 1, 17)[None], 1.0)[0].tolist()],
    }


def weight_picture(plane: Plane, view: View, top: float) -> NDArray[np.uint8]:
    """(Y, X, 3) picture of a view of a weight map."""
    return enlarged(heat(plane.read(view.box), top), view.factor)


def without_colour(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(Y, X, 3) -> (Y, X) where red, green and blue are equal, which makes files smaller; others as they are."""
    is_grey = picture.shape[2] == 3 and bool((picture == picture[..., :1]).all())
    return np.ascontiguousarray(picture[..., 0] if is_grey else picture)


def kept_row(history: Sequence[Mapping[str, float]], best_by: str = "iou") -> Mapping[str, float]:
    """The validation whose parameters were kept: the first of the best, or the last without validation."""
    return history[best_row(history, best_by)]


def charts(history: Sequence[Mapping[str, float]]) -> list[tuple[str, Chart]]:
    """Title and content of the charts of a training: the losses and, where there was validation, the IoU."""

    def line(key: str) -> list[tuple[float, float]]:
        return [(row["step"], row[key]) for row in history]

    if "iou" not in history[-1]:
        return [("Loss", chart({"training": line("loss")}))]
    losses = chart({"training": line("loss"), "validation": line("validation_loss")})
    return [("Loss", losses), ("IoU of the validation images", chart({"validation": line("iou")}, y_range=(0.0, 1.0)))]


def flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training without nesting."""
    return {
        **{f"network.{k}": v for k, v in spec["network"].items()},
        **{k: v for k, v in spec.items() if k != "network"},
    }


def count(number: int) -> str:
    """A whole number with narrow spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def plain(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def hex_colour(rgb: Sequence[int]) -> str:
    """Red, green and blue as HTML writes them."""
    return "#" + "".join(f"{part:02x}" for part in rgb)
