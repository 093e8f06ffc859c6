"""The configuration's documentation, written from the specs: schema, reference page, default file.

``python -m unetpipe.reference`` writes ``config/config.schema.json``, ``config/README.md`` and ``config/config.yaml``.
"""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from unetpipe.clusterspecs import ClusterSpec
from unetpipe.config import DERIVED, MOST_PER_JOB, SECTIONS
from unetpipe.netspecs import FAMILIES
from unetpipe.specs import ImportSpec, TrainSpec

__all__ = ["default_yaml", "reference_page", "schema"]

# Where the default configuration differs from the defaults: a small network on small patches.
EXAMPLE: dict[str, dict[str, Any]] = {
    "augment": {"input_px": 380, "copies": 16},
    "train": {"steps": 200, "validate_every": 100, "learning_rate": 0.003},
}
CLASSES = ("background", "cell")
MODEL = {"unet16": {"network": {"base_width": 16}}}
TOP = {
    "samples": "the sample sheet, a table separated by tabs; by default `config/samples.tsv`",
    "classes": "names of the classes; the first is background, the others follow their indices in class maps; "
    "by default `[background, foreground]`",
    "folds": "number of folds of cross-validation: each network leaves out one part of the training samples, and is "
    "evaluated on it; 0, the default: none, or as the sheet's column `fold` has it",
    "samples_per_job": "samples that one job of `ingest`, `annotate`, `weigh`, `augment`, `segment` and `evaluate` "
    "takes, one after the other; 1 by default, at most 100. Where samples are many and small, 24 or 48 save most of "
    "the time that jobs take to begin; results are the same. Rules are then named `ingest_1`, `ingest_2` and so on",
    "ensembles": "name and list of entries or networks whose probabilities are averaged; by default none",
}
ENTRY = {
    "preset": "name of a file in `config/presets`, whose keys come before those of `train`; by default none",
    "seeds": "one network for each seed, under `train` of every entry; without, `seed` counts",
    "weights": "file of public weights (`.pth`, `.pt`, `.safetensors`) of a padded U-Net, which is imported and not "
    "trained; beside it only the keys of `import` count (below)",
}
CLUSTER = "workers that share the tiles of each image; empty: one process does all"
COLUMN_HELP = {
    "sample": "unique name: letters, digits, `.`, `_`, `-`, at most 64",
    "image": "path of the image; `${NAME:-default}` is taken from the environment",
    "annotation": "path of the annotation; needed unless split is `predict`",
    "split": "`train`, `val` (chooses the best parameters), `test` (is evaluated), or `predict` (is only segmented)",
    "fold": "part of a training sample in cross-validation, counted from 0; empty: `folds` decides",
    "dataset": "data set that a sample belongs to; every entry of `models` is then trained, validated, scored and "
    "ranked within each, by a network of its own, `NAME-DATASET`; empty in all rows: one data set",
    "annotation_kind": "what the annotation's values mean, as `annotate.kind` has it; empty: that one counts",
    "plane": "z or t plane of a stack, counted from 0; empty for single images",
    "annotation_plane": "plane of an annotation stack; empty: the same as `plane`",
    "channels": "channels to keep, by number from 0 on (`0,2`) or by name (`DAPI,FITC`); empty: all",
    "pixel_size_um": "pixel size of the image's finest level in um, whatever the file says; empty: what the file says",
    "level": "level of the file's own pyramid that is read, 0 the finest; empty: 0. Annotations, regions and results "
    "keep the coordinates of the finest level",
    "region": "areas of the image that are predicted, of any class, without those whose class begins with `ignore`: "
    "QuPath's GeoJSON or ImageJ's ROIs (`.roi`, `.zip`); elsewhere all is background for sure; empty: everywhere",
}


def keys_of(section: str) -> list[dataclasses.Field[Any]]:
    """The fields of a section that a person may set."""
    hidden = DERIVED.get(section, set())
    return [field for field in dataclasses.fields(SECTIONS[section]) if field.name not in hidden]


def network_keys(family: type) -> list[dataclasses.Field[Any]]:
    """The fields of a network that a person may set."""
    return [field for field in dataclasses.fields(family) if field.name != "classes"]


def default_yaml() -> str:
    """The commented default configuration."""
    lines = ["# The default configuration: simulated cells and a narrow U-Net. Every key is explained in README.md."]
    lines += ["samples: config/samples.tsv", f"classes: [{', '.join(CLASSES)}]"]
    for section, kind in SECTIONS.items():
        lines += ["", f"# {first_line(kind)}", f"{section}:"]
        for field in keys_of(section):
            value = EXAMPLE.get(section, {}).get(field.name, field.default)
            unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
            lines.append(f"  {field.name}: {json.dumps(value)}  # {field.metadata['meaning']}{unit}")
        if section == "predict":
            lines.append(f"  cluster: null  # {CLUSTER}")
    lines += [
        "",
        "# One network each; `network:` and any key of `train:` may be set per model. Its key `family` is one of",
    ]
    lines += [f"#   {name}: {first_line(kind)}" for name, kind in FAMILIES.items()]
    lines += [yaml.safe_dump({"models": MODEL}, sort_keys=False).rstrip()]
    return "\n".join(lines) + "\n"


def reference_page() -> str:
    """The page that explains every column and every key."""
    lines = [
        "# Configuration",
        "",
        "## The sample sheet",
        "",
        "`samples.tsv`, one row per image, columns separated by tabs; the semicolons or commas that a "
        "spreadsheet writes are understood, too. With commas, cells that hold commas need quotation marks.",
        "",
    ]
    lines += ["| column | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in COLUMN_HELP.items()]
    lines += ["", "## Keys of config.yaml", "", "| key | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in TOP.items()]
    lines += ["| `models` | one entry per network: its name, `network:` (below), and any key of `train` that differs |"]
    lines += [f"| `models.NAME.{name}` | {text} |" for name, text in ENTRY.items()]
    for section, kind in SECTIONS.items():
        lines += ["", f"### `{section}`", "", first_line(kind), "", *table(keys_of(section))]
        if section == "predict":
            lines += [f"| `cluster` | {CLUSTER} (below) | | | |"]
            lines += ["", "#### `predict.cluster`", "", first_line(ClusterSpec), ""]
            lines += table(list(dataclasses.fields(ClusterSpec)))
    lines += ["", "### `import`: beside `models.NAME.weights`", "", first_line(ImportSpec), ""]
    lines += table(list(dataclasses.fields(ImportSpec)))
    lines += ["", "### `models.NAME.network`", "", "One of these families; the other keys depend on it."]
    for name, family in FAMILIES.items():
        lines += ["", f"#### `family: {name}`", "", first_line(family), "", *table(network_keys(family))]
    return "\n".join(lines) + "\n"


def table(fields: list[dataclasses.Field[Any]]) -> list[str]:
    """One row per key."""
    rows = ["| key | meaning | unit | default | allowed |", "|---|---|---|---|---|"]
    for field in fields:
        about = field.metadata
        default = "" if field.default is None else json.dumps(field.default)
        rows.append(
            f"| `{field.name}` | {about['meaning']} | {about['unit']} | `{default}` | {allowed(field)} |".replace(
                "`` ", ""
            )
        )
    return rows


def allowed(field: dataclasses.Field[Any]) -> str:
    """The values that a key may have, in words."""
    choices = literals(field.type)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    words = {"at_least": "at least", "above": "above", "at_most": "at most"}
    return ", ".join(f"{word} {field.metadata[rule]:g}" for rule, word in words.items() if rule in field.metadata)


def literals(kind: Any) -> tuple[Any, ...]:
    """The choices of a Literal type."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def first_line(kind: type) -> str:
    """First line of a spec's docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def schema() -> dict[str, Any]:
    """JSON schema of config.yaml, for editors that complete and check while one types."""
    sections = {name: section_schema(keys_of(name), first_line(kind)) for name, kind in SECTIONS.items()}
    cluster = section_schema(list(dataclasses.fields(ClusterSpec)), CLUSTER)
    sections["predict"]["properties"] |= {"cluster": cluster}
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": ENTRY["seeds"]}
    sections["train"]["properties"] |= {"seeds": seeds}
    preset = {"type": "string", "description": ENTRY["preset"]}
    trained = [model_schema({"seeds": seeds}), model_schema({"preset": preset, "seeds": seeds})]
    imported = section_schema(list(dataclasses.fields(ImportSpec)), first_line(ImportSpec))
    weights = {"type": "string", "description": ENTRY["weights"]}
    imported |= {
        "type": "object",
        "required": ["weights"],
        "properties": {"weights": weights, **imported["properties"]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unetpipe configuration",
        "type": "object",
        "additionalProperties": False,
        "required": ["models"],
        "properties": {
            "samples": {"type": "string", "description": TOP["samples"]},
            "classes": {"type": "array", "items": {"type": "string"}, "minItems": 2, "description": TOP["classes"]},
            "folds": {"type": "integer", "minimum": 0, "default": 0, "description": TOP["folds"]},
            "samples_per_job": {
                "type": "integer",
                "minimum": 1,
                "maximum": MOST_PER_JOB,
                "default": 1,
                "description": TOP["samples_per_job"],
            },
            "ensembles": {
                "type": "object",
                "description": TOP["ensembles"],
                "additionalProperties": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            },
            **sections,
            "models": {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": [*trained, imported]}},
        },
    }


def section_schema(fields: list[dataclasses.Field[Any]], meaning: str) -> dict[str, Any]:
    """JSON schema of one section."""
    properties = {field.name: field_schema(field) for field in fields}
    return {"type": ["object", "null"], "description": meaning, "additionalProperties": False, "properties": properties}


def model_schema(first: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of an entry that is trained, and has some keys before those of `train`."""
    by_preset = "preset" in first
    network = {"anyOf": [network_schema(name, by_preset=by_preset) for name in FAMILIES]}
    model = section_schema(keys_of("train"), first_line(TrainSpec))
    model["properties"] = {**first, "network": network, **model["properties"]}
    return model | {"type": "object", "required": ["preset"]} if by_preset else model


def network_schema(name: str, *, by_preset: bool) -> dict[str, Any]:
    """JSON schema of one family; where none is named, that of the preset is meant, or the first."""
    network = section_schema(network_keys(FAMILIES[name]), first_line(FAMILIES[name]))
    if by_preset or name == next(iter(FAMILIES)):
        return network
    return network | {"type": "object", "required": ["family"]}


def field_schema(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """JSON schema of one key."""
    rules = {"at_least": "minimum", "above": "exclusiveMinimum", "at_most": "maximum"}
    bounds = {name: field.metadata[rule] for rule, name in rules.items() if rule in field.metadata}
    unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return type_schema(field.type, bounds) | {"description": field.metadata["meaning"] + unit, "default": default}


def type_schema(kind: Any, bounds: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a field's type."""
    if isinstance(kind, types.UnionType):
        return {"anyOf": [type_schema(part, bounds) for part in typing.get_args(kind)]}
    if literals(kind):
        return {"enum": list(literals(kind))}
    if typing.get_origin(kind) is tuple:
        return {"type": "array", "items": type_schema(typing.get_args(kind)[0], bounds)}
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": type_schema(typing.get_args(kind)[1], bounds)}
    names = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}
    return {"type": names[kind], **(bounds if kind in (int, float) else {})}


def main() -> None:
    """Write the three files."""
    folder = Path("config")
    (folder / "config.schema.json").write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(reference_page(), encoding="utf-8")
    (folder / "config.yaml").write_text(default_yaml(), encoding="utf-8")


if __name__ == "__main__":
    main()
