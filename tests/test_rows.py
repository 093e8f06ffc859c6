"""Tables as text."""

import csv
import io

from unetpipe.rows import table_text


def test_what_is_written_is_read() -> None:
    rows = [{"a": "x, y", "b": 'a "b"'}, {"b": "two\nlines", "c": "tab\there"}]
    for separator in (",", "\t"):
        found = list(csv.DictReader(io.StringIO(table_text(rows, separator=separator)), delimiter=separator))
        assert found == [{"a": "", "b": "", "c": ""} | row for row in rows]


def test_numbers_keep_their_digits() -> None:
    rows = [{"x": 0.1 + 0.2, "n": 10**15, "ok": True, "none": None}, {"x": 1e-300, "n": 0, "ok": False, "none": None}]
    found = list(csv.DictReader(io.StringIO(table_text(rows))))
    assert [float(row["x"]) for row in found] == [row["x"] for row in rows]
    others = [(row["n"], row["ok"], row["none"]) for row in found]
    assert others == [("1000000000000000", "True", ""), ("0", "False", "")]


def test_columns_stand_without_rows() -> None:
    assert table_text([], ("network", "sample"), separator="\t") == "network\tsample\n"
    assert table_text([{"b": 1, "a": 2}], ("a",)) == "a,b\n2,1\n"
