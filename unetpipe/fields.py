"""What specs are made of: fields that carry their meaning, unit and bounds, and the check at birth."""

import dataclasses
import operator
from typing import Any, TypeVar

from unetpipe.errors import ConfigError

__all__ = ["Checked", "check_bounds", "key"]

T = TypeVar("T")


def key(
    default: T,
    meaning: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    discriminator: str | None = None,
) -> T:
    """A field with its default, its meaning, its unit and its bounds.

    Parameters
    ----------
    default : T
        Its value where nothing is given.
    meaning : str
        One line for the configuration's documentation.
    unit : str
        Unit of the number, or empty.
    at_least, above, at_most : float, optional
        Bounds of the number, or of each number of a tuple.
    discriminator : str, optional
        Where the field is one of several specs: the key whose value tells which.

    Returns
    -------
    T
        A dataclass field, typed as its default so that type checkers know the attribute.

    Examples
    --------
    >>> key(5.0, "width", unit="px", above=0).metadata["above"]
    0
    """
    given = {"at_least": at_least, "above": above, "at_most": at_most, "discriminator": discriminator}
    metadata = {"meaning": meaning, "unit": unit, **{k: v for k, v in given.items() if v is not None}}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


class Checked:
    """What all specs share: each number is held against its bounds when the value is made."""

    __slots__ = ()
    # Read by the parser of the configuration: a key that no field has is a mistake.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    check_bounds(field.name, number, field.metadata)


def check_bounds(name: str, number: float, bounds: Any) -> None:
    """Hold a number against the bounds of its field.

    Parameters
    ----------
    name : str
        Of the field, for the message.
    number : float
        What came.
    bounds : mapping
        The field's metadata; ``at_least``, ``above`` and ``at_most`` count.

    Raises
    ------
    ConfigError
        Unless the number is finite and keeps its bounds.

    Examples
    --------
    >>> check_bounds("depth", 3, {"at_least": 1})
    """
    for rule, holds in (("at_least", operator.ge), ("above", operator.gt), ("at_most", operator.le)):
        if rule in bounds and not holds(number, bounds[rule]):
            raise ConfigError(f"{name}: expected a value {rule.replace('_', ' ')} {bounds[rule]:g}, came {number:g}")
    if number != number or number in (float("inf"), float("-inf")):
        raise ConfigError(f"{name}: expected a finite number, came {number}")
