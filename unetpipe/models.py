"""Networks to be trained or imported, and applied: entries of the configuration, taken apart into seeds and folds."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetpipe.documents import is_there, mapping, read_yaml, unknown
from unetpipe.errors import ConfigError, GeometryError
from unetpipe.geometry import NetGeometry
from unetpipe.netspecs import NetworkSpec, PaddedUnetSpec
from unetpipe.parsing import spec_from_json
from unetpipe.samples import Sample, check_name, datasets_of
from unetpipe.specs import AugmentSpec, ImportSpec, TrainSpec

__all__ = [
    "Model",
    "fitted_patches",
    "members",
    "networks",
    "read_entries",
    "read_imports",
    "seeded",
    "weight_forms",
]

PRESETS = Path("config/presets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One network to be trained, or imported.

    Parameters
    ----------
    entry : str
        Entry of the configuration that it comes from; networks of one entry are compared as one.
    spec : TrainSpec or ImportSpec
        How it is trained; or what its file does not say.
    fold : int or None
        Fold of the training samples that it does not see, and is evaluated on; None: it sees all.
    weights : str
        File of public weights that it is imported from; empty: it is trained.
    classes : int
        Classes of the project, which an imported network has, too.
    dataset : str
        Data set that it is trained on and applied to; empty where there is one only.
    """

    entry: str
    spec: TrainSpec | ImportSpec
    fold: int | None = None
    weights: str = ""
    classes: int = 2
    dataset: str = ""

    @property
    def network(self) -> NetworkSpec:
        """Its network; what is imported is of one family, and counts as the usual one until its file is read."""
        return self.spec.network if isinstance(self.spec, TrainSpec) else PaddedUnetSpec(classes=self.classes)


def networks(
    names: Iterable[str],
    entries: Mapping[str, tuple[TrainSpec, list[int]]],
    imports: Mapping[str, Model],
    samples: Mapping[str, Sample],
    folds: Mapping[str, int],
) -> dict[str, Model]:
    """All networks: of each entry those of each data set, seed and fold.

    Parameters
    ----------
    names : iterable of str
        Names of the entries, in their order.
    entries, imports : mappings
        From `read_entries` and `read_imports`.
    samples : mapping of str to Sample
        All samples.
    folds : mapping of str to int
        Fold of each training sample; empty without cross-validation.

    Returns
    -------
    dict of str to Model
        By name.

    Raises
    ------
    ConfigError
        If a name is too long, or two networks would have the same.
    """
    found = dict[str, Model]()
    for entry in names:
        for dataset in datasets_of(samples):
            numbers = sorted({fold for name, fold in folds.items() if samples[name].dataset == dataset})
            if entry in imports:
                own = {of_dataset(entry, dataset): dataclasses.replace(imports[entry], dataset=dataset)}
            else:
                own = seeded(entry, *entries[entry], numbers, dataset)
            for name in own:
                check_name(name, f"models.{entry}")
                if name in found:
                    raise ConfigError(f"models.{entry}: a second network of the name {name}; rename the entry")
            found |= own
    return found


def of_dataset(entry: str, dataset: str) -> str:
    """Name of an entry or ensemble in a data set."""
    return f"{entry}-{dataset}" if dataset else entry


def seeded(
    entry: str, spec: TrainSpec, seeds: Sequence[int], folds: Sequence[int], dataset: str = ""
) -> dict[str, Model]:
    """The networks of an entry in a data set, one for each seed and fold.

    Parameters
    ----------
    entry : str
        Its name.
    spec : TrainSpec
        How its networks are trained; with no seeds, its own counts.
    seeds, folds : sequences of int
        Empty where there is one only.
    dataset : str
        Empty where there is one only.

    Returns
    -------
    dict of str to Model
        By name: the entry's, followed by ``-`` and the data set, ``-s`` and the seed, and ``-f`` and the fold, where
        there are any.

    Examples
    --------
    >>> list(seeded("a", TrainSpec(), [1, 2], [])), list(seeded("b", TrainSpec(), [], [0, 1]))
    (['a-s1', 'a-s2'], ['b-f0', 'b-f1'])
    """
    models = {}
    held_out: list[int | None] = [*folds] or [None]
    for seed in seeds or [spec.seed]:
        for fold in held_out:
            name = of_dataset(entry, dataset) + (f"-s{seed}" if seeds else "")
            name += f"-f{fold}" if fold is not None else ""
            models[name] = Model(entry=entry, spec=dataclasses.replace(spec, seed=seed), fold=fold, dataset=dataset)
    return models


def members(name: str, wanted: Any, models: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """The networks of an ensemble, each data set by itself.

    Parameters
    ----------
    name : str
        The ensemble's.
    wanted : Any
        What stands under its name: a list of networks, or of entries, which stand for all their networks.
    models : mapping of str to Model
        All networks.

    Returns
    -------
    dict of str to tuple of str
        Names of networks, in the order of the configuration, by the name of the ensemble in each data set.

    Raises
    ------
    ConfigError
        If a name is not known or taken, the networks do not agree on their classes and channels, or there are none.
    """
    place = f"ensembles.{name}"
    check_name(name, place)
    if name in models or name in {model.entry for model in models.values()}:
        raise ConfigError(f"{place}: there is a model of this name; choose another one")
    if not isinstance(wanted, list):
        raise ConfigError(f"{place}: expected a list of names, came {wanted!r:.60}; write it as [a, b]")
    names = [str(one) for one in wanted]
    known = [*models, *(model.entry for model in models.values())]
    for one in names:
        if one not in known:
            raise ConfigError(f"{place}: {unknown(one, known, 'model')}")
    found = tuple(one for one, model in models.items() if one in names or model.entry in names)
    if not found:
        raise ConfigError(f"{place}: expected a list of models, came none; name some, or leave it out")
    channels = {spec.network.channels for one in found if isinstance(spec := models[one].spec, TrainSpec)}
    if len(channels) > 1:
        raise ConfigError(
            f"{place}: expected networks of the same channels, came {sorted(channels)}; make one ensemble of each"
        )
    sets = dict.fromkeys(models[one].dataset for one in found)
    if taken := next((full for own in sets if (full := of_dataset(name, own)) in models), None):
        raise ConfigError(f"{place}: there is a model of the name {taken}; choose another one")
    return {of_dataset(name, own): tuple(one for one in found if models[one].dataset == own) for own in sets}


def read_entries(
    value: Any, train: Mapping[str, Any], classes: Sequence[str], where: str
) -> dict[str, tuple[TrainSpec, list[int]]]:
    """Training and seeds of each entry of the configuration that names no weights.

    Parameters
    ----------
    value : Any
        What stands under ``models:``.
    train : mapping
        The keys of ``train:``; those of an entry's preset win over them, and the entry's own over both.
    classes : sequence of str
        Names of the classes.
    where : str
        What to call the configuration in messages.

    Returns
    -------
    dict of str to (TrainSpec, list of int)
        By the entry's name; no seeds where none are listed.

    Raises
    ------
    ConfigError
        For the first mistake.
    """
    given = mapping(value, f"{where}: models")
    if not given:
        raise ConfigError(f"{where}: models: expected at least one model, came none; see config/README.md")
    entries = {}
    for name, entry in given.items():
        place = f"{where}: models.{name}"
        check_name(str(name), place)
        own = mapping(entry, place)
        if "weights" in own:
            continue
        preset = read_preset(own.pop("preset", None), place)
        keys = {**train, **preset, **own}
        network = mapping(preset.get("network"), place) | mapping(own.get("network"), f"{place}.network")
        if "classes" in network:
            raise ConfigError(f"{place}.network.classes: follows from the list of classes; leave it out")
        keys["network"] = {"family": "unet", **network, "classes": len(classes)}
        seeds = read_seeds(keys.pop("seeds", []), f"{place}.seeds")
        try:
            spec = spec_from_json(TrainSpec, json.dumps(keys), place)
        except ConfigError:
            # What stands under train is named there.
            shared = {key: value for key, value in train.items() if key not in ("network", "seeds")}
            plain = {"family": "unet", "classes": len(classes)}
            spec_from_json(TrainSpec, json.dumps(shared | {"network": plain}), f"{where}: train")
            raise
        entries[str(name)] = (spec, seeds)
    return entries


def read_imports(value: Any, classes: Sequence[str], where: str) -> dict[str, Model]:
    """The entries of the configuration that name a file of public weights.

    Parameters
    ----------
    value : Any
        What stands under ``models:``.
    classes : sequence of str
        Names of the classes.
    where : str
        What to call the configuration in messages.

    Returns
    -------
    dict of str to Model
        By name.

    Raises
    ------
    ConfigError
        For the first mistake.
    """
    imports = {}
    for name, entry in mapping(value, f"{where}: models").items():
        place = f"{where}: models.{name}"
        keys = mapping(entry, place)
        if "weights" in keys:
            weights = keys.pop("weights")
            wanted = f"{place}.weights: expected a file of public weights, came {weights!r:.100}"
            if not isinstance(weights, str):
                raise ConfigError(f"{wanted}; write its path")
            if not is_there(weights, f"{place}.weights") or not Path(weights).is_file():
                raise ConfigError(f"{wanted}; no such file, check the path")
            spec = spec_from_json(ImportSpec, json.dumps(keys), place)
            imports[str(name)] = Model(entry=str(name), spec=spec, weights=weights, classes=len(classes))
    return imports


def read_preset(name: Any, place: str) -> dict[str, Any]:
    """The keys of a preset; none without a name."""
    if name is None:
        return {}
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"{place}.preset, in {PRESETS}: {unknown(str(name), known, 'preset')}")
    return read_yaml(PRESETS / f"{name}.yaml")


def read_seeds(value: Any, place: str) -> list[int]:
    """Seeds of an entry: different whole numbers; none: its `seed` counts."""
    good = isinstance(value, list) and all(isinstance(seed, int) and seed >= 0 for seed in value)
    if not good or len(set(value)) < len(value):
        raise ConfigError(
            f"{place}: expected a list of different whole numbers, came {value!r:.60}; write them as [1, 2]"
        )
    return list(value)


def fitted_patches(spec: AugmentSpec, models: Sequence[TrainSpec], where: str) -> AugmentSpec:
    """The patches with the output side that all networks have in common.

    Parameters
    ----------
    spec : AugmentSpec
        As configured.
    models : sequence of TrainSpec
        All networks to be trained.
    where : str
        What to call the configuration in messages.

    Returns
    -------
    AugmentSpec
        A patch is legal for one network at least; the others get the largest centred part that is legal for them.

    Raises
    ------
    ConfigError
        If a patch is legal for none, too small for one, or a single value at the bottom of one with batch norm.
    """
    networks = [model.network.geometry for model in models]
    if not networks:
        return spec
    try:
        if not any(geometry.is_legal(spec.input_px) for geometry in networks):
            raise GeometryError(
                f"input side of {spec.input_px} px is legal for no network; use "
                f"{' or '.join(map(str, near_sides(networks, spec.input_px)))}"
            )
        seen = [geometry.side_within(spec.input_px) for geometry in networks]
        sides = [geometry.output_side(side) for geometry, side in zip(networks, seen, strict=True)]
    except GeometryError as error:
        raise ConfigError(f"{where}: augment.input_px: {error}") from None
    for model, side in zip(models, seen, strict=True):
        least = 2 * model.network.geometry.stride
        if isinstance(model.network, PaddedUnetSpec) and side < least:
            raise ConfigError(
                f"{where}: augment.input_px: {spec.input_px} px leave batch norm a single value per channel at the "
                f"bottom of a network of depth {model.network.depth}; use at least {least}, or fewer network.features"
            )
    return dataclasses.replace(spec, output_px=min(sides))


def weight_forms(models: Sequence[TrainSpec]) -> list[str]:
    """Maps of weights that trainings ask for; that of 2015 where they ask for none."""
    return sorted({model.pixel_weights for model in models} - {"none"}) or ["unet2015"]


def near_sides(networks: Sequence[NetGeometry], side: int) -> list[int]:
    """The next legal sides below and above one that is not legal, of every network."""
    above = {geometry: geometry.input_side(max(side - geometry.shrink, 1)) for geometry in networks}
    below = {n - geometry.stride for geometry, n in above.items() if n - geometry.stride >= geometry.minimum}
    return sorted({*above.values()} | below)
