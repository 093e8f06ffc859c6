"""What is wrong with samples, in words: one small function per fault, and what to do about it."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Fault", "Findings", "faults_of", "table_rows"]

Severity = Literal["error", "warning"]

# Shares and factors from which something is said; below them lies what good data sets show.
MANY_SATURATED = 0.05
NEARLY_ALL = 0.97
PARTS_PER_ID = 5
MANY_CUT = 0.5
FEW_INSTANCES = 4
PIXEL_SIZE_FACTOR = 1.25
# A shift is believed from this many px on, if the fit is no chance and clearly better than without and than elsewhere.
LEAST_SHIFT_PX = 3
LEAST_FIT = 0.1
BETTER_FIT, FIT_GAIN, PEAK = 1.3, 0.08, 1.5
# Faults of more samples stand in the last row of the table, not in each of theirs.
FEW_SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was seen of one sample.

    Parameters
    ----------
    name, split : str
        Of the sample.
    refused : str
        Why it could not be read; then nothing else is known.
    shape : tuple of int
        Height and width in px.
    channels : int
        Number of channels.
    dtype : str
        Type of a pixel.
    pixel_size_um : float or None
        Side of a pixel in um, where it is known.
    lowest, highest : float
        Of all intensities.
    saturated : float
        Share of pixels at the largest possible value: of the annotated objects, or of all where there are none.
    digest : str
        Equal for images that are equal up to quarter turns and mirroring.
    kind : str
        How the annotation was read; empty where there is none, and the rest has no meaning.
    class_counts : tuple of int
        Pixels of each class.
    ignored : float
        Share of pixels that nobody annotated.
    n_instances : int
        Number of objects.
    touching : int
        Number of those that touch the frame.
    ids, parts : int
        Different values, and connected parts, of the instances at the level looked at.
    shift : tuple of int
        (y, x) in px by which the annotation fits its image best.
    fit_there, fit_here, fit_elsewhere : float
        Correlation of borders and image edges with and without that shift, and the best one far from it.
    """

    name: str
    split: str
    refused: str = ""
    shape: tuple[int, int] = (0, 0)
    channels: int = 0
    dtype: str = ""
    pixel_size_um: float | None = None
    lowest: float = 0.0
    highest: float = 0.0
    saturated: float = 0.0
    digest: str = ""
    kind: str = ""
    class_counts: tuple[int, ...] = ()
    ignored: float = 0.0
    n_instances: int = 0
    touching: int = 0
    ids: int = 0
    parts: int = 0
    shift: tuple[int, int] = (0, 0)
    fit_there: float = 0.0
    fit_here: float = 0.0
    fit_elsewhere: float = -1.0

    @property
    def foreground(self) -> float:
        """Share of annotated pixels that are of another class than the first."""
        return sum(self.class_counts[1:]) / max(sum(self.class_counts), 1)

    @property
    def constant(self) -> bool:
        """Whether all pixels have one value."""
        return not self.refused and self.lowest == self.highest


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Parameters
    ----------
    severity : {"error", "warning"}
        Whether training would be in vain.
    samples : tuple of str
        Names of those that it concerns.
    text : str
        What was found, and what to do.
    """

    severity: Severity
    samples: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        few, rest = self.samples[:FEW_SAMPLES], len(self.samples) - FEW_SAMPLES
        shown = ", ".join(few) + (f" and {rest} more" if rest > 0 else "")
        return f"{shown}: {self.text}" if shown else self.text


def unreadable(found: Findings) -> str | None:
    """A source or an annotation that was refused."""
    return found.refused or None


def constant_image(found: Findings) -> str | None:
    """An image of one value: empty, or the wrong plane or channel."""
    if not found.constant:
        return None
    return f"every pixel of the image is {found.lowest:g}; choose another plane or channel, or leave the sample out"


def saturated_image(found: Findings) -> str | None:
    """Objects as bright as the camera could tell; white background of colour images is none of them."""
    if found.constant or found.saturated <= MANY_SATURATED or (found.channels == 3 and not found.kind):
        return None
    where = "of the objects' pixels" if found.kind and found.foreground else "of the pixels"
    return f"{found.saturated:.0%} {where} are at the largest value {found.highest:g}: overexposed; expose shorter"


def mask_as_instances(found: Findings) -> str | None:
    """A mask with one value, such as 0 and 255, where one value per object was expected."""
    if found.kind != "instances" or found.ids != 1 or found.parts < 3:
        return None
    return (
        f"the annotation has one value for {found.parts} separate parts: a mask, not instances; "
        "set annotate.kind to mask"
    )


def classes_as_instances(found: Findings) -> str | None:
    """A class map where one value per object was expected."""
    if found.kind != "instances" or found.ids < 2 or found.parts < PARTS_PER_ID * found.ids:
        return None
    return (
        f"the annotation has {found.ids} values for {found.parts} separate parts: class indices rather than "
        "instances? then set annotate.kind to classes"
    )


def nothing_annotated(found: Findings) -> str | None:
    """An annotation of background only."""
    if not found.kind or found.foreground > 0:
        return None
    return "nothing is annotated; right if there is nothing to see, else check the file's values"


def everything_annotated(found: Findings) -> str | None:
    """An annotation that is nearly all foreground, as inverted masks are."""
    if not found.kind or found.foreground <= NEARLY_ALL:
        return None
    return f"{found.foreground:.1%} of the annotated pixels are foreground: is the mask inverted? objects are not 0"


def shifted_annotation(found: Findings) -> str | None:
    """An annotation that fits its image clearly better a few pixels aside."""
    far = max(map(abs, found.shift)) >= LEAST_SHIFT_PX
    least = max(LEAST_FIT, BETTER_FIT * found.fit_here, found.fit_here + FIT_GAIN, PEAK * found.fit_elsewhere)
    if not found.kind or not far or found.fit_there < least:
        return None
    (y, x), where = found.shift, []
    where += [f"{abs(y)} px {'down' if y > 0 else 'up'}"] if y else []
    where += [f"{abs(x)} px to the {'right' if x > 0 else 'left'}"] if x else []
    return (
        f"the annotation fits the image better {' and '.join(where)} (correlation of edges {found.fit_there:.2f}, "
        f"here {found.fit_here:.2f}); check crop and origin of its export"
    )


def cut_by_the_frame(found: Findings) -> str | None:
    """More objects cut by the frame than whole ones."""
    if found.n_instances < FEW_INSTANCES or found.touching <= MANY_CUT * found.n_instances:
        return None
    return (
        f"{found.touching} of {found.n_instances} objects touch the frame; their sizes are cut and scores by object "
        "mislead: use larger images"
    )


SAMPLE_FAULTS: dict[Callable[[Findings], str | None], Severity] = {
    unreadable: "error",
    constant_image: "error",
    mask_as_instances: "error",
    saturated_image: "warning",
    classes_as_instances: "warning",
    nothing_annotated: "warning",
    everything_annotated: "warning",
    shifted_annotation: "warning",
    cut_by_the_frame: "warning",
}


def same_images(found: Sequence[Findings]) -> Iterator[Fault]:
    """Images that are there more than once: an error where what is learned from is tested, too."""
    by_digest: dict[str, list[Findings]] = {}
    for one in found:
        if one.digest and not one.constant and one.split != "predict":
            by_digest.setdefault(one.digest, []).append(one)
    for twins in by_digest.values():
        names, splits = tuple(one.name for one in twins), {one.split for one in twins}
        if len(twins) > 1 and "test" in splits and splits & {"train", "val"}:
            others = " and ".join(sorted(splits & {"train", "val"}))
            yield Fault(
                severity="error",
                samples=names,
                text=f"the same image in test and {others}, perhaps turned or mirrored: its score would be worth "
                "nothing; keep one of them",
            )
        elif len(twins) > 1:
            yield Fault(severity="warning", samples=names, text="the same image more than once; keep one of them")


def odd_channels(found: Sequence[Findings]) -> Iterator[Fault]:
    """Samples with another number of channels than most: no network takes both."""
    usual = statistics.mode([one.channels for one in found])
    odd = [one for one in found if one.channels != usual]
    if odd:
        came = ", ".join(str(n) for n in sorted({one.channels for one in odd}))
        yield Fault(
            severity="error",
            samples=tuple(one.name for one in odd),
            text=f"{came} channel(s) where most samples have {usual}; choose channels in the sample sheet",
        )


def other_channels(found: Sequence[Findings], channels: Sequence[int]) -> Iterator[Fault]:
    """Networks that take another number of channels than the images have."""
    usual = statistics.mode([one.channels for one in found])
    for taken in {*channels} - {usual}:
        text = f"most samples have {usual} channel(s), but a network takes {taken}; set network: {{channels: {usual}}} "
        text += "under models, or choose channels in the sample sheet"
        yield Fault(severity="error", samples=(), text=text)


def odd_types(found: Sequence[Findings]) -> Iterator[Fault]:
    """Samples of another type of pixel than most."""
    usual = statistics.mode([one.dtype for one in found])
    odd = [one for one in found if one.dtype != usual]
    if odd:
        came = ", ".join(sorted({one.dtype for one in odd}))
        yield Fault(
            severity="warning",
            samples=tuple(one.name for one in odd),
            text=f"pixels of type {came} where most samples have {usual}; keep augment.intensity at percentile",
        )


def odd_pixel_sizes(found: Sequence[Findings]) -> Iterator[Fault]:
    """Samples whose pixels are larger or smaller than usual, or of unknown size where others are known."""
    known = [one.pixel_size_um for one in found if one.pixel_size_um]
    if not known:
        return
    usual = statistics.median(known)
    unknown = tuple(one.name for one in found if not one.pixel_size_um)
    if unknown:
        yield Fault(
            severity="warning",
            samples=unknown,
            text=f"the pixel size is not known, that of others is {usual:.4g} um; fill in pixel_size_um in the sheet",
        )
    for one in found:
        size = one.pixel_size_um or usual
        if max(size / usual, usual / size) > PIXEL_SIZE_FACTOR:
            yield Fault(
                severity="warning",
                samples=(one.name,),
                text=f"pixels of {size:.4g} um where {usual:.4g} um is usual; objects look {usual / size:.3g} times as "
                "large: correct pixel_size_um, or resample",
            )


def classes_never_annotated(found: Sequence[Findings], classes: Sequence[str]) -> Iterator[Fault]:
    """Classes without a pixel in the training samples: an error; or in those of another split."""
    for split in ("train", "val", "test"):
        counts = [one.class_counts for one in found if one.split == split and one.kind]
        missing = [name for i, name in enumerate(classes) if counts and not any(sum(c[i : i + 1]) for c in counts)]
        if missing:
            text = f"no pixel of class {', '.join(missing)} in any sample of split {split}"
            remedy = "; annotate some, or take it out of `classes`" if split == "train" else "; it is not scored there"
            severity: Severity = "error" if split == "train" else "warning"
            yield Fault(severity=severity, samples=(), text=text + remedy)


def faults_of(found: Sequence[Findings], classes: Sequence[str], channels: Sequence[int] = ()) -> list[Fault]:
    """Everything that is wrong.

    Parameters
    ----------
    found : sequence of Findings
        One per sample.
    classes : sequence of str
        Names of the classes, background first.
    channels : sequence of int
        Numbers of channels that the networks take.

    Returns
    -------
    list of Fault
        Errors first; then in the order of the samples, and last what concerns all of them. What is an error in a sample
        to learn from is a warning in one that is only predicted, unless it cannot be read at all.

    Examples
    --------
    >>> [str(fault) for fault in faults_of([Findings(name="a", split="train", highest=9.0)], ["bg", "cell"])]
    []
    >>> [fault.severity for fault in faults_of([Findings(name="a", split="train", lowest=9.0, highest=9.0)], [])]
    ['error']
    """
    faults = []
    for one in found:
        for check, severity in SAMPLE_FAULTS.items():
            text = check(one)
            if text is not None:
                milder = one.split == "predict" and check is not unreadable
                faults.append(Fault(severity="warning" if milder else severity, samples=(one.name,), text=text))
    readable = [one for one in found if not one.refused]
    if readable:
        for across in (same_images, odd_channels, odd_types, odd_pixel_sizes):
            faults += across(readable)
        faults += other_channels(readable, channels)
        faults += classes_never_annotated(readable, classes)
    return sorted(faults, key=lambda fault: fault.severity != "error")


def table_rows(found: Sequence[Findings], faults: Iterable[Fault], classes: Sequence[str]) -> list[dict[str, str]]:
    """One row per sample with what was seen and what is wrong, ready to be written.

    Parameters
    ----------
    found : sequence of Findings
        One per sample.
    faults : iterable of Fault
        What `faults_of` found.
    classes : sequence of str
        Names of the classes.

    Returns
    -------
    list of dict of str to str
        All with the same columns, in the order of the samples; cells are empty where nothing is known.
    """
    said: dict[str, list[str]] = {}
    for fault in faults:
        for name in fault.samples if 0 < len(fault.samples) <= FEW_SAMPLES else ("",):
            said.setdefault(name, []).append(f"{fault.severity}: {fault.text if name else fault}")
    rows = [row_of(one, classes) | {"faults": "; ".join(said.get(one.name, []))} for one in found]
    if "" in said and rows:
        rows.append(dict.fromkeys(rows[0], "") | {"sample": "(all)", "faults": "; ".join(said[""])})
    return rows


def row_of(found: Findings, classes: Sequence[str]) -> dict[str, str]:
    """The cells of one sample."""
    seen, annotated = not found.refused, bool(found.kind)
    present = [name for name, count in zip(classes, found.class_counts, strict=False) if count]
    return {
        "sample": found.name,
        "split": found.split,
        "height_px": str(found.shape[0]) if seen else "",
        "width_px": str(found.shape[1]) if seen else "",
        "channels": str(found.channels) if seen else "",
        "type": found.dtype,
        "pixel_size_um": f"{found.pixel_size_um:.5g}" if found.pixel_size_um else "",
        "lowest": f"{found.lowest:.5g}" if seen else "",
        "highest": f"{found.highest:.5g}" if seen else "",
        "saturated": f"{found.saturated:.4f}" if seen else "",
        "annotation": found.kind,
        "classes": ", ".join(present),
        "instances": str(found.n_instances) if annotated else "",
        "at_frame": str(found.touching) if annotated else "",
        "foreground": f"{found.foreground:.4f}" if annotated else "",
        "ignored": f"{found.ignored:.4f}" if annotated else "",
        "shift_px": f"{found.shift[0]} {found.shift[1]}" if annotated else "",
    }
