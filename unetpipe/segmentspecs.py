"""What objects are: the settings of `segment` and `tune`."""

from dataclasses import dataclass
from typing import Literal

from unetpipe.errors import ConfigError
from unetpipe.fields import Checked, check_bounds, key

__all__ = ["SegmentSpec", "TuneSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec(Checked):
    """From probabilities to classes, and to instances: the connected parts of classes, measured and outlined."""

    instances: tuple[str, ...] | None = key(
        None, "classes whose connected parts are the instances; if empty, all classes but the first"
    )
    thresholds: dict[str, float] | None = key(
        None,
        "probability from which on a pixel is of a class, as `{cell: 0.4}`, for any classes but the first; the most "
        "probable of those that reach theirs, or else of the classes without one",
    )
    tune: bool = key(
        False,
        "for each model, choose the thresholds of the classes that `thresholds` leaves out: those with the best Dice "
        "on the samples of split val, in hundredths",
    )
    connectivity: Literal[4, 8] = key(4, "neighbours of a pixel: over its sides, or over its corners too")
    fill_holes: bool = key(False, "what an instance encloses belongs to it; `classes` stay as they are")
    split: Literal["none", "distance", "probability"] = key(
        "none",
        "part instances along the watershed of the distance to what is not of their class, that is where they are "
        "narrow, or of their class's probability",
    )
    split_depth_px: float = key(
        2.0,
        "for `split: distance`: how much nearer to the rim the middle of a neck must lie than the middles of both "
        "parts; necks of more than 256 px are none",
        unit="px",
        above=0,
        at_most=128,
    )
    split_depth_probability: float = key(
        0.1,
        "for `split: probability`: how much less probable the best path between two parts must be than their best "
        "pixels",
        above=0,
        at_most=1,
    )
    min_area_px: int = key(20, "smaller instances are dropped", unit="px", at_least=0)
    min_area_um2: float | None = key(
        None, "the same in um2, in place of `min_area_px`; needs a pixel size", unit="um2", at_least=0
    )
    classes: tuple[str, ...] = key((), "names of the classes; filled in")

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        named = {"thresholds": self.thresholds or {}, "instances": self.instances or ()}
        for field, names in named.items():
            if foreign := [name for name in names if name not in self.classes[1:]]:
                known = ", ".join(self.classes[1:])
                raise ConfigError(
                    f"{field}: expected one of classes but the first ({known:.100}), came {foreign[0]!r:.60}"
                )
        for name, threshold in (self.thresholds or {}).items():
            check_bounds(f"thresholds.{name}", threshold, {"above": 0, "at_most": 1})
        if self.instances == ():
            raise ConfigError("instances: expected one class or more, came none; leave the key out for all")

    def class_name(self, index: int) -> str:
        """Name of a class; its number where no names are given."""
        return self.classes[index] if index < len(self.classes) else str(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSpec(Checked):
    """Thresholds chosen on the validation samples."""

    classes: tuple[str, ...] = key((), "names of the classes; filled in")
