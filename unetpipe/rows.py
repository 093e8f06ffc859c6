"""Rows of cells as text."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["table_text"]


def table_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = (), *, separator: str = ",") -> str:
    """A table as text, with a line of names first.

    Parameters
    ----------
    rows : iterable of mapping of str to value
        Cells by the name of their column; None and what is missing is empty, numbers have all digits that they need.
    columns : sequence of str
        Names of columns that come first, even if no row has them.
    separator : str
        Between cells.

    Returns
    -------
    str
        Columns in the order in which the rows name them.

    Examples
    --------
    >>> table_text([{"step": 1, "loss": 0.5}, {"step": 2, "iou": None}])
    'step,loss,iou\\n1,0.5,\\n2,,\\n'
    """
    rows = list(rows)
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
