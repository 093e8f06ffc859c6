"""JSON read item by item, and files that are none."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetpipe.annotations import jsonitems
from unetpipe.annotations.jsonitems import iter_items
from unetpipe.errors import AnnotationError

PLAIN = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(-1e9, 1e9) | st.text(max_size=9)
VALUES = st.recursive(PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))


def items_of(data: Any) -> list[tuple[str, Any]]:
    """What `iter_items` says it yields."""
    if isinstance(data, list):
        return [("", item) for item in data]
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        found += [(key, None), *((key, item) for item in value)] if isinstance(value, list) else [(key, value)]
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(VALUES, max_size=5) | st.dictionaries(st.text(max_size=5), VALUES, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.none() | st.integers(0, 3),
    zipped=st.booleans(),
)
def test_items_do_not_depend_on_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any, chunk: int, indent: int | None, zipped: bool
) -> None:
    monkeypatch.setattr(jsonitems, "_CHUNK", chunk)
    text = json.dumps(data, indent=indent, ensure_ascii=chunk % 2 == 0).encode("utf-8", "surrogatepass")
    (tmp_path / "a").write_bytes(gzip.compress(text) if zipped else text)
    assert list(iter_items(tmp_path / "a")) == items_of(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"features": [1, 2', "not valid JSON at character 19: expected , or ], came the end of the file"),
        (b'{"features": [1 2]}', "at character 17: expected , or ], came 2"),
        (b'{"a": tru}', "not valid JSON at character 7"),
        (b"{a: 1}", "expected a key in quotes, came a"),
        (b"[1] x", "expected the end of the file, came x"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["\xff"]', "not UTF-8"),
        (b'"text"', "expected {"),
        (b"", "came the end of the file"),
        (gzip.compress(b"[1, 2, 3]")[:-9], "is damaged"),
        (b"\x1f\x8b\x08\x00 nonsense", "is damaged"),
        (gzip.compress(b"[" + b" " * 70 * 2**20 + b"]"), "expands to more than"),
    ],
    ids=range(13),
)
def test_what_is_no_json(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        list(iter_items(tmp_path / "bad.json"))
    assert said in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_an_item_without_end_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonitems, "_CHUNK", 100)
    monkeypatch.setattr(jsonitems, "_ITEM_LIMIT", 1000)
    (tmp_path / "bad.json").write_bytes(b'["' + b"a" * 10_000)
    with pytest.raises(AnnotationError, match="one item has more than 1000 characters"):
        list(iter_items(tmp_path / "bad.json"))
