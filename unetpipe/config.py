"""config.yaml and samples.tsv to specs: the only place that parses what people write."""

import dataclasses
import hashlib
import json
import sys
import typing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from unetpipe.errors import ConfigError, GeometryError
from unetpipe.sheet import SPLITS, Sample, check_name, read_samples, read_text, unknown
from unetpipe.specs import (
    AnnotateSpec,
    AugmentSpec,
    EvaluateSpec,
    IngestSpec,
    PhantomSpec,
    PredictSpec,
    ReportSpec,
    SegmentSpec,
    SimulateSpec,
    TrainSpec,
    WeighSpec,
    canonical_json,
)

__all__ = ["Config", "read_config", "spec_from_json", "workflow_config"]

SpecType = TypeVar("SpecType")

SECTIONS: dict[str, type] = {
    "simulate": SimulateSpec,
    "ingest": IngestSpec,
    "annotate": AnnotateSpec,
    "weigh": WeighSpec,
    "augment": AugmentSpec,
    "train": TrainSpec,
    "predict": PredictSpec,
    "segment": SegmentSpec,
    "evaluate": EvaluateSpec,
    "report": ReportSpec,
}
# What each command of the command line takes as its spec.
STAGE_SPECS: dict[str, type] = SECTIONS | {"simulate": PhantomSpec}
# Keys that follow from others, and are not for the configuration.
DERIVED = {
    "ingest": {"plane", "channels"},
    "annotate": {"plane", "n_classes"},
    "augment": {"output_px"},
    "train": {"network"},
    "evaluate": {"n_classes"},
    "report": {"config"},
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
    models : dict of str to TrainSpec
        One training per model.
    sheet : Path
        The sample sheet.
    samples : dict of str to Sample
        By name.
    document : dict
        The configuration as it was read, for the report.
    """

    classes: tuple[str, ...]
    sections: dict[str, Any]
    models: dict[str, TrainSpec]
    sheet: Path
    samples: dict[str, Sample]
    document: dict[str, Any]

    @cached_property
    def by_split(self) -> dict[str, list[str]]:
        """Sample names of each split, sorted."""
        return {split: sorted(s.name for s in self.samples.values() if s.split == split) for split in SPLITS}

    @property
    def shown(self) -> list[str]:
        """Samples that are segmented: those to be evaluated and those to be predicted only."""
        return sorted(self.by_split["test"] + self.by_split["predict"])

    def network_module(self, model: str) -> str:
        """Module of a model's network family: it is chosen at run time, so its code is named for the fingerprint."""
        return f"unetpipe.networks.{self.models[model].network.family}"

    @property
    def simulated(self) -> str:
        """Folder of the images that the package draws; empty where it draws none."""
        return self.sections["simulate"].folder if "simulate" in self.sections else ""

    def is_simulated(self, path: str) -> bool:
        """Whether a source file is drawn by the package."""
        return bool(self.simulated) and Path(path).parent.parent == Path(self.simulated)

    def spec(self, stage: str, name: str = "") -> str:
        """Canonical JSON of a stage's spec, for the sample or model `name` where it differs between them."""
        spec: Any = self.sections.get(stage)
        if stage == "simulate":
            spec = phantom(spec, name, is_slide=self.samples[name].split == "predict")
        elif stage == "ingest":
            spec = self.samples[name].ingest
        elif stage == "annotate":
            spec = dataclasses.replace(spec, plane=self.samples[name].annotation_plane)
        elif stage == "train":
            spec = self.models[name]
        return canonical_json(spec)


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

    Source files that do not exist, and that are not simulated, are mistakes of the sample sheet.
    """
    try:
        config = read_config(document, name)
        for sample in config.samples.values():
            for column, path in (("image", sample.image), ("annotation", sample.annotation)):
                if path and not config.is_simulated(path) and not Path(path).exists():
                    raise ConfigError(f"{config.sheet}: sample {sample.name}: {column}: no such file: {path}")
    except ConfigError as error:
        sys.stderr.write(f"unetpipe: {error}\n")
        sys.exit(2)
    return config


def spec_from_json(kind: type[SpecType], text: str, where: str) -> SpecType:
    """Parse and check one spec.

    Raises
    ------
    ConfigError
        With the place, what was expected and what came, in one line.
    """
    try:
        parsed: SpecType = adapter(kind).validate_json(text, strict=True)
        return parsed
    except ValidationError as error:
        raise ConfigError(describe(error, kind, where)) from None


@typing.no_type_check
def adapter(kind):
    """Pydantic's parser of a spec; unknown keys are refused."""
    return TypeAdapter(kind)


def describe(error: ValidationError, kind: Any, where: str) -> str:
    """The first fault of a spec, as one line for people."""
    first = error.errors()[0]
    # Union branches and list positions are pydantic's business; keys are the reader's.
    place = ".".join([where, *(p for p in first["loc"] if isinstance(p, str) and p.isidentifier())])
    came = repr(first["input"])[:60]
    if first["type"] == "unexpected_keyword_argument":
        holder: Any = kind
        for part in first["loc"][:-1]:
            holder = next((field.type for field in dataclasses.fields(holder) if field.name == part), holder)
        return f"{place}: {unknown(str(first['loc'][-1]), [field.name for field in dataclasses.fields(holder)])}"
    if first["type"] == "value_error":
        return f"{where}.{first['ctx']['error']}"
    wanted = first["msg"].replace("Input should be", "expected").replace("a valid i", "an i").replace("a valid ", "a ")
    return f"{place}: {wanted}, came {came}"


class Loader(yaml.SafeLoader):
    """YAML without duplicate keys, and without aliases, which can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        double = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if double is not None:
            raise yaml.YAMLError(f"key {double!r} stands twice, again in line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        data = yaml.load(read_text(path), Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{where}: not valid YAML: {reason}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected sections with keys, came {type(data).__name__}")
    return data


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
    where, data = (name, source) if isinstance(source, dict) else (str(source), read_yaml(source))
    known = {"samples", "classes", "models", *SECTIONS}
    for name in data:
        if name not in known:
            raise ConfigError(f"{where}: {unknown(str(name), sorted(known))}")
    classes = class_names(data.get("classes", ["background", "foreground"]), where)
    given = {name: mapping(data.get(name), f"{where}: {name}") for name in SECTIONS}
    models = read_models(data.get("models"), given["train"], classes, where)
    given["annotate"] |= {"n_classes": len(classes)}
    given["evaluate"] |= {"n_classes": len(classes)}
    given["report"] |= {"config": canonical_json(data)}
    sections: dict[str, Any] = {
        name: spec_from_json(kind, json.dumps(given[name]), f"{where}: {name}")
        for name, kind in SECTIONS.items()
        if name != "train" and (name != "simulate" or "simulate" in data)
    }
    sections["augment"] = fitted_patches(sections["augment"], models, where)
    foreground = sections["segment"].foreground
    if foreground >= len(classes):
        raise ConfigError(
            f"{where}: segment.foreground: expected 1 to {len(classes) - 1} as in classes, came {foreground}"
        )
    sheet = Path(str(data.get("samples", "config/samples.tsv")))
    samples = read_samples(sheet, sections["ingest"].pixel_size_um)
    return Config(classes=classes, sections=sections, models=models, sheet=sheet, samples=samples, document=data)


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A section's keys without those that are derived; an empty section has none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys with values, came {value!r:.60}")
    hidden = DERIVED.get(where.rpartition(" ")[2], set())
    for name in value:
        if name in hidden:
            raise ConfigError(f"{where}.{name}: follows from other keys or from the sample sheet; leave it out")
    return dict(value)


def class_names(value: Any, where: str) -> tuple[str, ...]:
    """The names of the classes."""
    if not isinstance(value, list) or len(value) < 2 or len({str(v) for v in value}) < len(value):
        raise ConfigError(f"{where}: classes: expected a list of two or more different names, came {value!r:.60}")
    return tuple(str(name) for name in value)


def read_models(value: Any, train: dict[str, Any], classes: tuple[str, ...], where: str) -> dict[str, TrainSpec]:
    """One training per entry of `models:`; its own keys win over those of `train:`."""
    entries = mapping(value, f"{where}: models")
    if not entries:
        raise ConfigError(f"{where}: models: expected at least one model, came none; see config/README.md")
    models = {}
    for name, entry in entries.items():
        place = f"{where}: models.{name}"
        check_name(str(name), place)
        keys = train | mapping(entry, place)
        network = mapping(keys.get("network"), f"{place}.network")
        if "classes" in network:
            raise ConfigError(f"{place}.network.classes: follows from the list of classes; leave it out")
        keys["network"] = network | {"classes": len(classes)}
        models[str(name)] = spec_from_json(TrainSpec, json.dumps(keys), place)
    return models


def fitted_patches(spec: AugmentSpec, models: dict[str, TrainSpec], where: str) -> AugmentSpec:
    """The patches with the output size that holds every network's, held against every network's legal sizes."""
    try:
        sides = [model.network.geometry.output_side(spec.input_px) for model in models.values()]
    except GeometryError as error:
        raise ConfigError(f"{where}: augment.input_px: {error}") from None
    return dataclasses.replace(spec, output_px=max(sides))
