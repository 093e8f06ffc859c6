"""The sample sheet as spreadsheets and editors save it."""

import csv
import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remedies import has_remedy

from unetpipe.errors import ConfigError
from unetpipe.samples import Sample, read_samples
from unetpipe.specs import IngestSpec

ROWS = [
    ["sample", "image", "annotation", "split", "channels", "pixel_size_um"],
    ["a", "scans/a (1) [x].tif", "scans/a, cells.tif", "train", "0,2", "0.5"],
    ["b", "scans/ж ö.tif", "scans/b 'q'.tif", "val", "", ""],
    ["c", "scans/c; d.svs", "", "predict", "1", "1e-1"],
]


@pytest.fixture
def read(tmp_path: Path):
    """A function that reads a sheet of some bytes."""

    def call(content: str | bytes) -> dict[str, Sample]:
        path = tmp_path / "s.tsv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_samples(path, IngestSpec())

    return call


def saved(rows: list[list[str]], delimiter: str = "\t", **keys: object) -> str:
    """Rows as a spreadsheet saves them."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n", **keys).writerows(rows)  # type: ignore[call-overload]
    return text.getvalue()


def test_delimiters_marks_and_line_ends_do_not_count(read) -> None:
    expected = read(saved(ROWS))
    assert expected["b"].image == "scans/ж ö.tif" and expected["a"].ingest.channels == (0, 2)
    wide = [[*row, "", " "] for row in ROWS]
    for rows, delimiter, mark, end in itertools.product((ROWS, wide), "\t;,", ("", "\ufeff"), ("\n", "\r\n", "\r")):
        text = saved(rows, delimiter)
        assert read((mark + text.replace("\n", end)).encode()) == expected
        assert read(mark + saved(rows, delimiter, quoting=csv.QUOTE_ALL).replace("\n", end)) == expected


def test_a_first_line_that_names_the_delimiter_is_left_out(read) -> None:
    assert read("sep=;\n" + saved(ROWS, ";")) == read(saved(ROWS))


def test_the_header_alone_tells_the_delimiter(read) -> None:
    # More semicolons and commas than tabs, all of them in paths.
    found = read("sample\timage\tannotation\tsplit\na\tx;y,z;u,v.tif\tk;l,m.tif\ttrain\n")
    assert (found["a"].image, found["a"].annotation) == ("x;y,z;u,v.tif", "k;l,m.tif")


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        (saved(ROWS, ",").replace('"0,2"', "0,2"), "row 2: expected 6 cells separated by commas, came 7; put cells"),
        (
            saved(ROWS, ";").replace("0.5", "0,5"),
            "row 2: pixel_size_um: expected a number with a decimal point, above 0, came '0,5'",
        ),
        (saved(ROWS, ",").replace("0.5", '"0,5"'), "row 2: pixel_size_um: .* decimal point, above 0, came '0,5'"),
        (saved(ROWS).replace("0.5", "nan"), "row 2: pixel_size_um: expected"),
        (saved(ROWS).replace("0.5", "1e999"), "row 2: pixel_size_um: expected a number .* came '1e999'"),
        (saved(ROWS).replace("scans/a (1)", '"scans/a (1)'), "row 2: a quotation mark is not closed"),
        (saved(ROWS).replace("1e-1", '"1e-1'), "row 4: a quotation mark is not closed"),
        (saved(ROWS).replace("scans/ж", '"scans/ж"'), "row 3: a quotation mark is not closed"),
        (saved([[*ROWS[0][:5], "", *ROWS[0][5:]], ROWS[1]]), "column 6 has no name"),
        (saved([[*ROWS[0], "plane", "plane"]]), "expected one column 'plane'"),
        (saved([[*ROWS[0][:5], "Pixel_size_um"]]), "unknown column 'Pixel_size_um'; did you mean pixel_size_um"),
        ("sample image annotation split\na b c train\n", "unknown column 'sample image annotation split'"),
        ("\n\n", "expected one column 'sample'"),
        (saved(ROWS).encode("utf-16"), "expected UTF-8 text; save it as UTF-8"),
        (saved(ROWS).encode("cp1251", "replace"), "expected UTF-8 text"),
        (saved(ROWS).replace("(1)", "{1}"), "row 2: image: expected a path without braces"),
        (saved(ROWS).replace("(1)", "\0"), "row 2: "),
        (saved([*ROWS[:2], [*ROWS[2], "", "note"]]), "row 3: expected 6 cells, came 8"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(read, sheet: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(sheet)
    assert "s.tsv" in str(caught.value) and has_remedy(str(caught.value)), caught.value
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


@given(st.binary(max_size=300) | st.text("\t;,\"'\n\r\0 asmpleigt=\ufeff", max_size=200).map(str.encode))
def test_any_file_is_a_sheet_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    for start in (b"", b"sample\timage\tannotation\tsplit\n", b"sample,image,annotation,split\n"):
        path.write_bytes(start + content)
        try:
            assert read_samples(path, IngestSpec())
        except ConfigError as error:
            assert "\n" not in str(error)
