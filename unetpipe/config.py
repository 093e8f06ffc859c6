"""config.yaml and samples.tsv to the specs of all stages, samples and models."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unetpipe.clusterspecs import ClusterSpec
from unetpipe.documents import class_names, is_there, mapping, read_yaml, unknown, whole_number
from unetpipe.errors import ConfigError, GeometryError, in_one_line
from unetpipe.folds import folds_of
from unetpipe.models import Model, fitted_patches, members, networks, read_entries, read_imports, weight_forms
from unetpipe.parsing import spec_from_json, without_cluster, without_folders
from unetpipe.planning import LARGE, Plan, plan_tiles
from unetpipe.samples import SPLITS, Sample, read_samples
from unetpipe.specs import (
    AnnotateSpec,
    AugmentSpec,
    DoctorSpec,
    EvaluateSpec,
    ImportSpec,
    IngestSpec,
    PhantomSpec,
    PredictSpec,
    ReportSpec,
    SegmentSpec,
    SimulateSpec,
    TrainSpec,
    TuneSpec,
    WeighSpec,
    canonical_json,
)

__all__ = ["Config", "check_file", "read_config", "workflow_config"]


SECTIONS: dict[str, type] = {
    "simulate": SimulateSpec,
    "ingest": IngestSpec,
    "annotate": AnnotateSpec,
    "doctor": DoctorSpec,
    "weigh": WeighSpec,
    "augment": AugmentSpec,
    "train": TrainSpec,
    "predict": PredictSpec,
    "segment": SegmentSpec,
    "evaluate": EvaluateSpec,
    "report": ReportSpec,
}
# What each command of the command line takes as its spec.
STAGE_SPECS: dict[str, type] = SECTIONS | {"simulate": PhantomSpec, "import": ImportSpec, "tune": TuneSpec}
# Linux takes no command of 128 KiB or more.
MOST_PER_JOB = 100
# Keys that follow from others, and are not for the configuration.
DERIVED = {
    "ingest": {"plane", "level", "channels", "source_pixel_size_um"},
    "annotate": {"plane", "n_classes", "classes"},
    "doctor": {"channels", "classes", "datasets", "splits"},
    "weigh": {"forms"},
    "augment": {"output_px"},
    "train": {"network"},
    "predict": {"n_classes"},
    "segment": {"classes"},
    "evaluate": {"n_classes"},
    "report": {"config", "groups"},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration, validated: the specs of every stage.

    Parameters
    ----------
    classes : tuple of str
        Names of the classes; the first is background.
    sections : dict
        One spec per stage, as configured.
    cluster : ClusterSpec
        Workers that predict.
    samples_per_job : int
        Samples that one job of a short stage takes.
    models : dict of str to Model
        One training per model.
    ensembles : dict of str to tuple of str
        Models whose probabilities are averaged.
    folds : dict of str to int
        Fold of each training sample; empty without cross-validation.
    sheet : Path
        The sample sheet.
    samples : dict of str to Sample
        By name.
    document : dict
        The configuration as it was read, for the report.
    """

    classes: tuple[str, ...]
    sections: dict[str, Any]
    cluster: ClusterSpec
    samples_per_job: int
    models: dict[str, Model]
    ensembles: dict[str, tuple[str, ...]]
    folds: dict[str, int]
    sheet: Path
    samples: dict[str, Sample]
    document: dict[str, Any]

    @cached_property
    def by_split(self) -> dict[str, list[str]]:
        """Sample names of each split, sorted."""
        return {split: sorted(s.name for s in self.samples.values() if s.split == split) for split in SPLITS}

    def examined_splits(self, group: str) -> dict[str, list[str]]:
        """Sample names of the splits that the doctor looks at together: what trainings are made of, or all."""
        splits = ("train", "val") if group == "training" else SPLITS
        return {split: self.by_split[split] for split in splits}

    def examined(self, group: str) -> list[str]:
        """Samples of a doctor's group."""
        return sorted(name for names in self.examined_splits(group).values() for name in names)

    def annotated(self, group: str) -> list[str]:
        """Samples of a doctor's group that have an annotation."""
        return [name for name in self.examined(group) if self.samples[name].annotation]

    @property
    def applied(self) -> list[str]:
        """Models and ensembles: everything that predicts."""
        return [*self.models, *self.ensembles]

    @property
    def groups(self) -> dict[str, dict[str, list[str]]]:
        """Models of each entry, and each ensemble by itself, of each data set."""
        groups: dict[str, dict[str, list[str]]] = {}
        for name in self.applied:
            dataset = self.dataset_of(name)
            entry = self.models[name].entry if name in self.models else name.removesuffix(f"-{dataset}")
            groups.setdefault(dataset, {}).setdefault(entry, []).append(name)
        return groups

    def members(self, name: str) -> tuple[str, ...]:
        """Models that predict together under a name: those of an ensemble, or the model itself."""
        return self.ensembles.get(name, (name,))

    def dataset_of(self, name: str) -> str:
        """Data set of a model or ensemble; empty where there is one only."""
        return self.models[self.members(name)[0]].dataset

    def own(self, split: str, name: str) -> list[str]:
        """Samples of a split that a model or ensemble has to do with: those of its data set."""
        dataset = self.dataset_of(name)
        return [sample for sample in self.by_split[split] if self.samples[sample].dataset == dataset]

    def seen(self, model: str) -> list[str]:
        """Training samples of a model: all but those of its fold."""
        fold = self.models[model].fold
        return [name for name in self.own("train", model) if fold is None or self.folds[name] != fold]

    def scored(self, name: str) -> list[str]:
        """Samples that a model or ensemble is evaluated on: those of split test, and those of its fold."""
        fold = self.models[name].fold if name in self.models else None
        held_out = [one for one in self.own("train", name) if fold is not None and self.folds[one] == fold]
        return sorted(self.own("test", name) + held_out)

    def shown(self, name: str) -> list[str]:
        """Samples that a model or ensemble segments: those to be evaluated and those to be predicted only."""
        return sorted(self.scored(name) + self.own("predict", name))

    def network_modules(self, name: str) -> list[str]:
        """Modules of a name's network families: chosen at run time, so that the fingerprint must be told of them."""
        return sorted({f"unetpipe.networks.{self.models[one].network.family}" for one in self.members(name)})

    def taught_by(self, model: str) -> list[str]:
        """Results that a model learns from: patches, and what they are drawn from where none are stored."""
        kinds = ("patches",) if self.sections["augment"].copies else ("patches", "images", "labels", "weights")
        return [f"{kind}/{sample}" for kind in kinds for sample in self.seen(model)]

    def training_modules(self, model: str) -> list[str]:
        """Modules that a training chooses at run time: of its network, and of patches that it draws itself."""
        return self.network_modules(model) + ([] if self.sections["augment"].copies else ["unetpipe.draws"])

    def plan(self, name: str, shape: tuple[int, int] | None = None) -> Plan:
        """Tiles with which a model or ensemble predicts an image of a shape, or one that is larger than all cores."""
        networks = [self.models[one].network for one in self.members(name)]
        return plan_tiles(networks, self.sections["predict"], shape=shape or LARGE)

    def predict_mb(self, name: str) -> int:
        """Memory in MB (2^20 bytes) of a prediction's job; the whole budget, which it keeps to, without a plan."""
        plan = self.plans[name]
        needed = plan.host_bytes if plan else int(1e9 * self.sections["predict"].memory_gb)
        return -(-needed // 2**20)

    @cached_property
    def plans(self) -> dict[str, Plan | None]:
        """Tiles of each model and ensemble for large images.

        None where only whole images can be predicted; or, unless a core is given, where a network is imported, whose
        sizes stand in its file.
        """
        found: dict[str, Plan | None] = {}
        for name in self.applied:
            try:
                imported = any(self.models[one].weights for one in self.members(name))
                found[name] = None if imported and self.sections["predict"].core_px is None else self.plan(name)
            except GeometryError:
                found[name] = None
        return found

    @property
    def trained_names(self) -> str:
        """Regular expression of the models that are trained."""
        return one_of(name for name, model in self.models.items() if not model.weights)

    @property
    def imported_names(self) -> str:
        """Regular expression of the models that are imported."""
        return one_of(name for name, model in self.models.items() if model.weights)

    @property
    def simulated(self) -> str:
        """Folder of the images that the package draws; empty where it draws none."""
        folder: str = self.sections["simulate"].folder if "simulate" in self.sections else ""
        return folder and str(Path(folder))

    def is_simulated(self, path: str) -> bool:
        """Whether a source file is drawn by the package."""
        folders = [Path(self.simulated, kind) for kind in ("images", "labels")]
        return bool(self.simulated) and Path(path).parent in folders and Path(path).suffix == ".tif"

    def spec(self, stage: str, name: str = "") -> str:
        """Canonical JSON of a stage's spec, for the sample, model or group `name` where it differs between them."""
        spec: Any = self.sections.get(stage)
        if stage == "simulate":
            spec = phantom(spec, name, is_slide=self.samples[name].split == "predict")
        elif stage == "ingest":
            spec = self.samples[name].ingest
        elif stage == "annotate":
            kind = self.samples[name].annotation_kind or spec.kind
            spec = dataclasses.replace(spec, plane=self.samples[name].annotation_plane, kind=kind)
        elif stage == "doctor":
            named = {one: dataset for one in self.examined(name) if (dataset := self.samples[one].dataset)}
            splits = canonical_json(self.examined_splits(name))
            spec = dataclasses.replace(spec, splits=splits, datasets=canonical_json(named))
        elif stage == "report":
            spec = dataclasses.replace(spec, groups=canonical_json(self.groups))
        elif stage in ("train", "import"):
            spec = self.models[name].spec
        return canonical_json(spec)


def one_of(names: Iterable[str]) -> str:
    """Regular expression that fits these names; without any, nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def phantom(spec: SimulateSpec, name: str, *, is_slide: bool) -> PhantomSpec:
    """The simulated image of one sample: its seed follows from the common one and the name."""
    seed = int.from_bytes(hashlib.sha256(f"{spec.seed}/{name}".encode()).digest()[:4])
    return PhantomSpec(
        side=spec.slide_side if is_slide else spec.image_side,
        diameter_px=spec.diameter_px,
        pixel_size_um=spec.pixel_size_um,
        seed=seed,
    )


def workflow_config(document: dict[str, Any], name: str = "config.yaml") -> Config:
    """The configuration for the workflow; ends the process with one line and exit code 2 if it is not usable.

    Source files that do not exist, and that are not simulated, are mistakes of the sample sheet; so are simulated ones
    of another name than their sample's, which alone is drawn.
    """
    with in_one_line():
        config = read_config(document, name)
        for sample in config.samples.values():
            for column, path in sample.sources.items():
                where = f"{config.sheet}: sample {sample.name}: {column}"
                drawn = str(Path(path).with_name(f"{sample.name}.tif"))
                if not is_there(path, where) and not config.is_simulated(path):
                    raise ConfigError(f"{where}: no such file: {path}; check the path")
                if config.is_simulated(path) and path != drawn:
                    raise ConfigError(f"{where}: expected {drawn}, which is drawn, came {path}; correct the path")
    return config


def check_file(path: str) -> None:
    """End the process with one line and exit code 2 if a configuration cannot be read, or has a key twice."""
    with in_one_line():
        read_yaml(Path(path))


def read_config(source: Path | dict[str, Any], name: str = "config.yaml") -> Config:
    """Read and check a configuration with its sample sheet.

    Parameters
    ----------
    source : Path or dict
        The YAML file, or its content as Snakemake has merged it.
    name : str
        What to call the content in messages.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        For the first mistake: file, row or key, what was expected, what came.
    """
    where, document = (name, source) if isinstance(source, dict) else (str(source), read_yaml(source))
    data, cluster = without_cluster(document, where)
    # As the workers that predict: how work is shared out changes no result.
    place = f"{where}: samples_per_job"
    per_job = whole_number(data.pop("samples_per_job", 1), place, at_least=1, at_most=MOST_PER_JOB)
    known = {"samples", "samples_per_job", "classes", "models", "ensembles", "folds", *SECTIONS}
    for name in data:
        if name not in known:
            raise ConfigError(f"{where}: {unknown(str(name), sorted(known))}")
    classes = class_names(data.get("classes", ["background", "foreground"]), where)
    given = {name: section(data, name, where) for name in SECTIONS}
    entries, imports = (
        read_entries(data.get("models"), given["train"], classes, where),
        read_imports(data["models"], classes, where),
    )
    named, counted = dict[str, Any](classes=classes), dict[str, Any](n_classes=len(classes))
    derived = {"annotate": named | counted, "doctor": named, "predict": counted, "segment": named, "evaluate": counted}
    for name, follows in derived.items():
        given[name] |= follows
    given["weigh"] |= {"forms": weight_forms([spec for spec, _ in entries.values()])}
    given["doctor"] |= {"channels": sorted({spec.network.channels for spec, _ in entries.values()})}
    given["report"] |= {"config": canonical_json(without_folders(data))}
    sections: dict[str, Any] = {
        name: spec_from_json(kind, json.dumps(given[name]), f"{where}: {name}")
        for name, kind in SECTIONS.items()
        if name != "train" and (name != "simulate" or "simulate" in data)
    }
    sections["augment"] = fitted_patches(sections["augment"], [spec for spec, _ in entries.values()], where)
    sections["tune"] = TuneSpec(classes=classes)
    if sections["predict"].tissue_only and sections["ingest"].tissue == "none":
        raise ConfigError(f"{where}: predict.tissue_only: needs a tissue mask, came none; set ingest.tissue")
    sheet = Path(str(data.get("samples", "config/samples.tsv")))
    samples = read_samples(sheet, sections["ingest"])
    validated = {sample.dataset for sample in samples.values() if sample.split == "val"}
    if sections["segment"].tune and validated < {sample.dataset for sample in samples.values()}:
        raise ConfigError(f"{where}: segment.tune: needs samples of split val, came none in {sheet}; leave it out")
    try:
        folds = folds_of(samples, data.get("folds", 0), str(sheet))
        models = networks(map(str, data["models"]), entries, imports, samples, folds)
        ensembles = dict[str, tuple[str, ...]]()
        for name, wanted in mapping(data.get("ensembles"), "ensembles").items():
            ensembles |= members(str(name), wanted, models)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    config = Config(
        classes=classes,
        sections=sections,
        cluster=cluster,
        samples_per_job=per_job,
        models=models,
        ensembles=ensembles,
        folds=folds,
        sheet=sheet,
        samples=samples,
        document=document,
    )
    check_tiles(config, where)
    return config


def check_tiles(config: Config, where: str) -> None:
    """Refuse tiles in which a network could not be applied once it is trained; imported ones are not known yet."""
    for name in config.applied:
        specs = [config.models[one].spec for one in config.members(name)]
        if all(isinstance(spec, TrainSpec) and spec.network.geometry.tileable for spec in specs):
            try:
                config.plan(name)
            except GeometryError as error:
                place = "predict.core_px: " if config.sections["predict"].core_px else ""
                raise ConfigError(f"{where}: {place}{error}") from None


def section(data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """The keys of a section, none of which follows from others."""
    keys = mapping(data.get(name), f"{where}: {name}")
    derived = DERIVED.get(name, set())
    known = [field.name for field in dataclasses.fields(SECTIONS[name]) if field.name not in derived]
    # Those of entries that have none of their own.
    known += ["seeds"] if name == "train" else []
    for key in keys:
        if key not in known and key not in derived:
            raise ConfigError(f"{where}: {name}.{key}: {unknown(str(key), known)}")
    for key in derived & {*keys}:
        raise ConfigError(f"{where}: {name}.{key}: follows from other keys or from the sample sheet; leave it out")
    return keys
