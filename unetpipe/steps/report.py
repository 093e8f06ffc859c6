"""report: one page for people, with scores, curves, pictures, settings and where everything comes from."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from unetpipe import __version__
from unetpipe.comparison import Rank, mean_ranks, metric_rows, pooled_scores, ranked
from unetpipe.figures import PREDICTION, TRUTH, Album, sample_figures, tissue_figure, weight_figures
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.pictures import Chart, chart
from unetpipe.schedules import best_row
from unetpipe.specs import ReportSpec

__all__ = ["report"]

TEMPLATE = Path(__file__).with_name("report.html")
COSTS = ["network", "parameters", "steps", "seconds_per_step", "peak_mb", "device", "waited_share", "most_waited_share"]
# What the page shows of each prediction: the key of its costs, a title, and how the number is written.
PREDICTION_COSTS = [
    ("core_px", "Core, px", "{:.0f}"),
    ("planned_mb", "Planned MB", "{:.0f}"),
    ("peak_mb", "Peak MB", "{:.0f}"),
    ("planned_work", "Work", "{:.2f}"),
    ("mpx_per_s", "Mpx/s", "{:.3g}"),
    ("busy", "Busy", "{:.0%}"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The manifests that the page is made of: by sample, by model, or by model and then sample."""

    doctor: Manifest | None
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


def report(inputs: Sequence[Path], *, output: Path, spec: ReportSpec, code: str) -> None:
    """Write the page at the end.

    Reads
    -----
    inputs : manifests of `evaluate`, `train`, `segment`, `ingest`, `annotate`, `weigh` and `doctor`
        In any order. A sample is drawn where its image is among them.

    Writes
    ------
    output : manifest
        With the pooled scores; beside it a folder with ``index.html`` and its pictures, and ``costs.tsv`` with what the
        trainings took and ``predictions.tsv`` with what was planned and measured of the predictions, which differ from
        run to run and are no part of the result. Nor is ``costs.css``, by which the page shows what both tell.
    """
    manifests = sorted((read_manifest(path) for path in inputs), key=lambda m: (m.stage, m.name))
    with open_ledger(output, stage="report", spec=spec, code=code, inputs=manifests) as ledger:
        if ledger.complete:
            return
        results = sorted_results(manifests)
        config = json.loads(spec.config)
        classes = class_names(config, results)
        pooled = {
            model: pooled_scores([m.facts for m in samples.values()]) for model, samples in results.evaluations.items()
        }
        groups = json.loads(spec.groups) or {"": {name: [name] for name in pooled}}
        rankings = {dataset: ranked(own, pooled, by=spec.rank_by) for dataset, own in groups.items()}
        taken, predicted = costs(results), predictions(results)
        album, px, images, weighed = Album(ledger), spec.preview_px, results.images, results.weights.items()
        trained = {name: m for name, m in results.models.items() if m.facts["history"]}
        text = rendered(
            title=spec.title,
            version=__version__,
            results=results,
            classes=classes,
            metrics=metric_rows(classes),
            pooled=pooled,
            rankings=rankings,
            mean_ranks=mean_ranks([*rankings.values()], by=spec.rank_by) if len(rankings) > 1 else [],
            rank_by=spec.rank_by,
            doctor=doctor_table(results.doctor),
            prediction_costs=PREDICTION_COSTS,
            charts={name: charts(m.facts["history"]) for name, m in trained.items()},
            kept={name: kept_row(m.facts["history"], m.spec["best_by"]) for name, m in trained.items()},
            scored=[f for sample in results.scored for f in figures_of(sample, results, album, px)],
            unscored=[f for sample in results.unscored for f in figures_of(sample, results, album, px)],
            tissues=[tissue_figure(m, album, preview_px=px) for m in results.images.values() if m.facts.get("tissue")],
            weights=[f for name, m in weighed for f in weight_figures(m, images.get(name), album, preview_px=px)],
            settings={name: flat(m) for name, m in results.models.items()},
            config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=False),
            manifests=manifests,
            codes=sorted({(m.stage, m.code) for m in manifests} | {("report", code)}),
        )
        write_file(ledger.store / "index.html", text.encode())
        styles = ranking_styles(rankings, taken) + prediction_styles(predicted)
        write_file(output.parent / "costs.css", styles.encode())
        for name, table in (("costs.tsv", taken), ("predictions.tsv", predicted)):
            write_file(output.parent / name, table.to_csv(sep="\t", index=False).encode())
        ledger.append("index.html", hashlib.sha256(text.encode()).hexdigest())
        ledger.publish({"scores": pooled, "scored": results.scored, "unscored": results.unscored})


def costs(results: Results) -> pd.DataFrame:
    """Parameters, steps, time per step, memory and waiting of every training, as far as they were written down."""
    rows = []
    for name, model in results.models.items():
        path = model.path.parents[1] / "costs" / f"{name}.json"
        measured = json.loads(path.read_text()) if path.is_file() else {}
        rows.append(
            {"network": name, "parameters": model.facts.get("parameters"), "steps": model.facts["steps"]} | measured
        )
    return pd.DataFrame(rows, columns=COSTS)


def ranking_styles(rankings: Mapping[str, Sequence[Rank]], table: pd.DataFrame) -> str:
    """A style sheet that writes costs into the ranking: the page itself is a result, and holds no times.

    The fastest network counts, for the others may have been slowed by what ran beside them, and the most memory.
    """
    rules = []
    for dataset, rank in ((dataset, rank) for dataset, ranks in rankings.items() for rank in ranks):
        rows = table[table["network"].isin(rank.networks)]
        seconds, peak = rows["seconds_per_step"].min(), rows["peak_mb"].max()
        for kind, value, text in (("seconds", seconds, f"{seconds:.2g}"), ("peak", peak, f"{peak:.0f}")):
            if pd.notna(value):
                place = f'[data-dataset="{dataset}"] [data-entry="{rank.entry}"]'
                rules.append(f'{place} .{kind}::after {{ content: "{text}"; }}\n')
    return "".join(rules)


def predictions(results: Results) -> pd.DataFrame:
    """Core, memory planned and measured, speed and share of time of every prediction, as far as written down."""
    rows = []
    for model, samples in results.segmentations.items():
        for sample, manifest in samples.items():
            path = manifest.path.parents[2] / "costs" / "predict" / model / f"{sample}.json"
            measured = json.loads(path.read_text()) if path.is_file() else {}
            measured.pop("host", None)
            rows.append({"network": model, "sample": sample} | measured)
    return pd.DataFrame(rows, columns=None if rows else ["network", "sample"])


def prediction_styles(table: pd.DataFrame) -> str:
    """A style sheet that writes what predictions took into their table."""
    rules = []
    for row in table.to_dict("records"):
        place = f'[data-prediction="{row["network"]}/{row["sample"]}"]'
        for key, _, form in PREDICTION_COSTS:
            if pd.notna(row.get(key)):
                rules.append(f'{place} .{key}::after {{ content: "{form.format(row[key])}"; }}\n')
    return "".join(rules)


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
        doctor=next((manifest for manifest in manifests if manifest.stage == "doctor"), None),
        images=alone["ingest"],
        truths=alone["annotate"],
        weights=alone["weigh"],
        models=alone["train"],
        segmentations=paired["segment"],
        evaluations=paired["evaluate"],
    )


def doctor_table(doctor: Manifest | None) -> dict[str, Any] | None:
    """What the doctor saw of each sample, without the faults, which stand for themselves."""
    if doctor is None:
        return None
    with (doctor.store / "table.tsv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"]]
    columns = [name for name in rows[0] if name != "faults"]
    return {"faults": doctor.facts["faults"], "columns": columns, "rows": rows}


def class_names(config: Mapping[str, Any], results: Results) -> list[str]:
    """Names of the classes as configured, with a number where one has none."""
    names = [str(name) for name in config.get("classes", ["background", "foreground"])]
    tables = [m.facts["confusion"] for samples in results.evaluations.values() for m in samples.values()]
    counts = [m.facts["class_counts"] for samples in results.segmentations.values() for m in samples.values()]
    needed = max((len(one) for one in tables + counts), default=0)
    return names + [f"class {index}" for index in range(len(names), needed)]


def figures_of(sample: str, results: Results, album: Album, preview_px: int) -> Iterator[dict[str, Any]]:
    """Figures of a sample, of every model; nothing where its image was not given."""
    found, scored = (
        {model: by_sample[sample] for model, by_sample in by_model.items() if sample in by_sample}
        for by_model in (results.segmentations, results.evaluations)
    )
    image = results.images.get(sample)
    if image is not None and found:
        yield from sample_figures(image, results.truths.get(sample), found, scored, album, preview_px=preview_px)


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


def flat(model: Manifest) -> dict[str, Any]:
    """Settings of a training, or of an import, without nesting."""
    return {
        **{f"network.{k}": v for k, v in model.facts["network"].items()},
        **{k: v for k, v in model.spec.items() if k != "network"},
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
