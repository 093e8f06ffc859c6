"""JSON to specs: what people and workflows write, checked; a mistake becomes one line for people."""

import copy
import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from unetpipe.clusterspecs import ClusterSpec
from unetpipe.documents import mapping, unknown
from unetpipe.errors import ConfigError
from unetpipe.netspecs import FAMILIES

__all__ = ["adapter", "spec_from_json", "without_cluster", "without_folders"]

SpecType = TypeVar("SpecType")


# Numbers that YAML 1.1 takes for text.
EXPONENT = re.compile(r"[+-]?\d+[eE][+-]?\d+|[+-]?\d+\.\d*[eE]\d+")


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
        fault = describe(error, kind, where)
        raise ConfigError(fault if ";" in fault else f"{fault}; see config/README.md") from None


@cache
@typing.no_type_check
def adapter(kind):
    """Pydantic's parser of a spec; unknown keys are refused."""
    return TypeAdapter(kind)


def describe(error: ValidationError, kind: Any, where: str) -> str:
    """The first fault of a spec, as one line for people."""
    first = error.errors()[0]
    names, holder = located(kind, first["loc"])
    place = ".".join([where, *names])
    came = repr(first["input"])[:60]
    if first["type"] == "unexpected_keyword_argument":
        # The classes of a network follow from the list of classes.
        derived = {"classes"} if holder in FAMILIES.values() else set()
        known = [field.name for field in dataclasses.fields(holder) if field.name not in derived]
        return f"{place}: {unknown(str(first['loc'][-1]), known)}"
    if first["type"] == "union_tag_invalid":
        return f"{place}.family: {unknown(first['ctx']['tag'], FAMILIES, 'family')}"
    if first["type"] == "union_tag_not_found":
        return f"{place}.family: expected one of {', '.join(FAMILIES)}, came none"
    if first["type"] == "value_error":
        return f"{place}.{first['ctx']['error']}"
    wanted = first["msg"].replace("Input should be", "expected").replace("a valid i", "an i").replace("a valid ", "a ")
    if first["type"] == "float_type" and isinstance(first["input"], str) and EXPONENT.fullmatch(first["input"]):
        return f"{place}: {wanted}, came the text {came}; write it with a point, as in 1.0e-3"
    return f"{place}: {wanted}, came {came}"


def located(kind: Any, loc: Sequence[int | str]) -> tuple[list[str], Any]:
    """The keys that lead to a fault, and the type that holds it; union branches and list positions are left out."""
    names: list[str] = []
    for part in loc:
        if isinstance(kind, types.UnionType) and part in FAMILIES:
            kind = FAMILIES[str(part)]
            continue
        if isinstance(part, str) and part.isidentifier():
            names.append(part)
        if dataclasses.is_dataclass(kind):
            kind = next((field.type for field in dataclasses.fields(kind) if field.name == part), kind)
    return names, kind


def without_cluster(document: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ClusterSpec]:
    """A configuration without the workers of `predict`, and these.

    Parameters
    ----------
    document : mapping
        The whole configuration.
    where : str
        What to call it in messages.

    Returns
    -------
    (dict, ClusterSpec)

    Raises
    ------
    ConfigError
        If the workers are not usable.

    Examples
    --------
    >>> rest, cluster = without_cluster({"predict": {"memory_gb": 8, "cluster": {"local": 2}}}, "c.yaml")
    >>> rest, cluster.local
    ({'predict': {'memory_gb': 8}}, 2)
    """
    predict = mapping(document.get("predict"), f"{where}: predict")
    if "cluster" not in predict:
        return dict(document), ClusterSpec()
    given = mapping(predict["cluster"], f"{where}: predict.cluster")
    cluster = spec_from_json(ClusterSpec, json.dumps(given), f"{where}: predict.cluster")
    return {**document, "predict": {name: v for name, v in predict.items() if name != "cluster"}}, cluster


def without_folders(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as results tell of it: files by their names, wherever they lie on this machine.

    Parameters
    ----------
    document : mapping
        The whole configuration, its models checked.

    Returns
    -------
    dict

    Examples
    --------
    >>> without_folders({"samples": "/disk/s.tsv", "models": {"a": {"weights": "/disk/w.pth"}, "b": None}})
    {'samples': 's.tsv', 'models': {'a': {'weights': 'w.pth'}, 'b': None}}
    """
    told = copy.deepcopy(dict(document))
    places = [(told, "samples"), (told.get("simulate") or {}, "folder")]
    for holder, key in [*places, *((entry or {}, "weights") for entry in told["models"].values())]:
        if key in holder:
            holder[key] = Path(str(holder[key])).name
    return told
