"""Each fault is told where it is, and nothing where it is not."""

import dataclasses
import re

import pytest

from unetpipe.faults import SAMPLE_FAULTS, Findings, faults_of, table_rows

CLASSES = ("background", "cell")
GOOD = Findings(
    name="a",
    split="train",
    shape=(100, 200),
    channels=1,
    dtype="uint8",
    pixel_size_um=0.5,
    lowest=3.0,
    highest=200.0,
    digest="a",
    kind="instances",
    class_counts=(15000, 5000),
    n_instances=40,
    touching=9,
    ids=40,
    parts=41,
    fit_there=0.4,
    fit_here=0.4,
)


def like(name: str, **keys: object) -> Findings:
    """A good sample with its own name and image, and some things otherwise."""
    return dataclasses.replace(GOOD, name=name, digest=name, **keys)  # type: ignore[arg-type]


def told(*found: Findings) -> list[tuple[str, tuple[str, ...], str]]:
    """Severity, samples and text of all faults."""
    return [(fault.severity, fault.samples, fault.text) for fault in faults_of(found, CLASSES)]


ALONE: dict[str, tuple[dict[str, object], str, str]] = {
    "refused": ({"refused": "a.tif: is empty"}, "error", "a.tif: is empty"),
    "constant": ({"lowest": 7.0, "highest": 7.0}, "error", "every pixel of the image is 7; .*leave the sample out"),
    "saturated": ({"saturated": 0.2, "highest": 255.0}, "warning", "20% of the objects' pixels .* 255: overexposed"),
    "mask": (
        {"ids": 1, "parts": 30, "n_instances": 1},
        "error",
        "one value for 30 separate parts: .*annotate.kind to mask",
    ),
    "classes": ({"ids": 3, "parts": 15}, "warning", "3 values for 15 separate parts: .*annotate.kind to classes"),
    "empty": ({"class_counts": (100, 0), "n_instances": 0, "ids": 0, "parts": 0}, "warning", "nothing is annotated"),
    "inverted": ({"class_counts": (2, 98)}, "warning", "98.0% of the annotated pixels .* is the mask inverted"),
    "shifted": (
        {"shift": (4, -12), "fit_there": 0.4, "fit_here": 0.2},
        "warning",
        r"better 4 px down and 12 px to the left \(correlation of edges 0.40, here 0.20\)",
    ),
    "cut": ({"touching": 21}, "warning", "21 of 40 objects touch the frame"),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_fault_is_told_once_with_what_to_do(name: str) -> None:
    keys, severity, text = ALONE[name]
    # A second sample, so that no class is without pixels.
    found = told(like("b"), like("a", **keys))
    assert len(found) == 1
    assert found[0][:2] == (severity, ("a",))
    assert re.search(text, found[0][2])
    assert "\n" not in found[0][2] and len(found[0][2]) < 200


def test_every_fault_of_a_sample_is_tested() -> None:
    assert len(ALONE) == len(SAMPLE_FAULTS)


@pytest.mark.parametrize(
    "keys",
    [
        {"ids": 1, "parts": 2, "n_instances": 1, "touching": 1},
        {"ids": 1, "parts": 30, "kind": "mask"},
        {"shift": (2, -2), "fit_there": 0.9, "fit_here": 0.2},
        {"shift": (9, 9), "fit_there": 0.45, "fit_here": 0.4},
        {"shift": (9, 9), "fit_there": 0.09, "fit_here": 0.0},
        {"shift": (9, 9), "fit_there": 0.4, "fit_here": 0.1, "fit_elsewhere": 0.3},
        {"touching": 20},
        {"touching": 3, "n_instances": 3},
        {"saturated": 0.05},
        {"channels": 3, "saturated": 0.5, "kind": "", "split": "predict"},
    ],
)
def test_what_is_no_fault(keys: dict[str, object]) -> None:
    both = {"channels": keys.get("channels", 1)}
    assert told(like("b", **both), like("a", **keys)) == []


def test_errors_of_what_is_only_predicted_are_warnings_unless_it_cannot_be_read() -> None:
    slide = {"split": "predict", "kind": "", "class_counts": ()}
    assert [f[0] for f in told(like("b"), like("a", lowest=0.0, highest=0.0, **slide))] == ["warning"]
    assert [f[0] for f in told(like("b"), like("a", refused="no", **slide))] == ["error"]


def test_the_same_image_twice() -> None:
    twin = dataclasses.replace(like("b"), digest="a")
    assert told(like("a"), twin)[0][:2] == ("warning", ("a", "b"))
    [(severity, names, text)] = told(like("a"), dataclasses.replace(twin, split="test"))
    assert (severity, names) == ("error", ("a", "b")) and "in test and train" in text
    assert told(like("a"), dataclasses.replace(twin, split="predict")) == []
    assert told(like("a"), dataclasses.replace(twin, split="val"))[0][0] == "warning"


def test_samples_that_differ_from_most() -> None:
    most = [like(f"m{i}") for i in range(4)]
    assert told(*most, like("x", channels=3)) == [
        ("error", ("x",), "3 channel(s) where most samples have 1; choose channels in the sample sheet")
    ]
    assert told(*most, like("x", dtype="uint16"))[0][:2] == ("warning", ("x",))
    [(severity, names, text)] = told(*most, like("x", pixel_size_um=0.25))
    assert (severity, names) == (
        "warning",
        ("x",),
    ) and "pixels of 0.25 um where 0.5 um is usual; objects look 2 " in text
    assert told(*most, like("x", pixel_size_um=0.6)) == []
    assert "not known, that of others is 0.5 um" in told(*most, like("x", pixel_size_um=None))[0][2]
    assert told(*(like(f"m{i}", pixel_size_um=None) for i in range(4))) == []


def test_classes_without_a_pixel() -> None:
    found = faults_of([like("a"), like("t", split="test", class_counts=(9, 1, 5))], [*CLASSES, "dirt"])
    assert [(f.severity, str(f).split(";")[0]) for f in found] == [
        ("error", "no pixel of class dirt in any sample of split train")
    ]
    found = faults_of([like("a"), like("v", split="val", class_counts=(9, 0))], CLASSES)
    assert [f.severity for f in found] == ["warning", "warning"], "nothing annotated, and the class in val"


def test_errors_come_first() -> None:
    found = told(like("a", touching=40), like("b", lowest=1.0, highest=1.0), like("c"))
    assert [fault[0] for fault in found] == ["error", "warning"]


def test_the_table_has_every_sample_and_every_fault() -> None:
    slide = like("p", split="predict", kind="", class_counts=(), pixel_size_um=None)
    found = [like("a", touching=40, ignored=0.25), like("b", refused="b.tif: is empty"), slide]
    rows = table_rows(found, faults_of(found, [*CLASSES, "dirt"]), [*CLASSES, "dirt"])
    assert [row["sample"] for row in rows] == ["a", "b", "p", "(all)"]
    assert len({tuple(row) for row in rows}) == 1
    a, b, p, everything = rows
    assert (a["height_px"], a["width_px"], a["type"], a["pixel_size_um"]) == ("100", "200", "uint8", "0.5")
    assert (a["classes"], a["instances"], a["foreground"], a["ignored"]) == (
        "background, cell",
        "40",
        "0.2500",
        "0.2500",
    )
    assert a["faults"].startswith("warning: 40 of 40 objects touch the frame")
    assert (b["faults"], b["height_px"], b["saturated"]) == ("error: b.tif: is empty", "", "")
    assert (p["instances"], p["classes"]) == ("", "")
    assert "error: no pixel of class dirt" in everything["faults"]


def test_a_fault_of_many_stands_in_the_last_row() -> None:
    found = [like(f"m{i}", pixel_size_um=None) for i in range(5)] + [like("k")]
    rows = table_rows(found, faults_of(found, CLASSES), CLASSES)
    assert rows[0]["faults"] == ""
    assert rows[-1]["faults"].startswith("warning: m0, m1, m2 and 2 more: the pixel size is not known")
