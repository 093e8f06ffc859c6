"""Folders of images and annotations as people keep them: which file annotates which, and in which split it is.

Layouts are told by names only: folders named for what they hold (``images`` with ``masks``, ``labels``, ``gt`` ...),
names that end in ``_mask`` and the like, shapes beside an image under its name, nnU-Net raw data, the Broad Bioimage
Benchmark Collection, one folder per image with one mask per object, the Cell Tracking Challenge.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from unetpipe.annotations.maskfolders import mask_folders
from unetpipe.errors import ConfigError
from unetpipe.samples import usable
from unetpipe.sources.images import IMAGE_SUFFIXES

__all__ = [
    "KNOWN",
    "SHAPES",
    "Pair",
    "coco_pairs",
    "ending_of",
    "find_pairs",
    "iter_files",
    "named",
    "split_lists",
    "with_splits",
]

KNOWN = (
    "images/ with masks/, labels/, annotations/, gt/ or foreground/; names with _mask, _label, _seg or _gt; "
    "X.geojson beside X.svs; COCO; nnU-Net (imagesTr, labelsTr); ID/images/ with ID/masks/, one mask per object; "
    "Cell Tracking Challenge (01, 01_GT)"
)
MAX_FILES = 200_000
MAX_JSON = 2**28

SHAPES = {".geojson", ".geojson.gz", ".zip", ".roi"}
OF_IMAGES = "images?|imgs?|raw|scans?|slides?|inputs?"
OF_ANNOTATIONS = (
    "(?:cp_)?masks?|labels?|annotations?|gt|ground[ _-]?truths?|truths?|foregrounds?|segmentations?|segs?"
    "|instances|rois?"
)
# A folder's name: what comes before its role, the role, what comes behind; a role of annotations is looked for first.
FOLDERS = [re.compile(rf"((?:.*?[ _-])??)({role})(tr|ts|(?:[ _-].*)?)", re.I) for role in (OF_ANNOTATIONS, OF_IMAGES)]
SUFFIXES = [re.compile(rf"(.+?)[ _-](?:{role})", re.I) for role in (OF_ANNOTATIONS, OF_IMAGES)]
SPLIT = re.compile(r"(?:.*[ _-])?(?:(train(?:ing)?|tr)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?|ts))(?:[ _-].*)?", re.I)
CHANNEL = re.compile(r"(.+)_(\d{4})")
TRUTH = re.compile(r"man_seg_?(\d+)(?:_(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An image and what annotates it.

    Parameters
    ----------
    image : PurePosixPath
        Path below the folder.
    annotation : PurePosixPath or None
        Path below the folder; of a folder, where it holds one mask per object.
    split : str
        As the names of the folders tell it; empty where they do not.
    group : str
        What must not be divided between splits: a film, or the image alone.
    name : str
        What it might be called.
    plane, annotation_plane : int or None
        For stacks.
    """

    image: PurePosixPath
    annotation: PurePosixPath | None = None
    split: str = ""
    group: str = ""
    name: str = ""
    plane: int | None = None
    annotation_plane: int | None = None


def iter_files(folder: Path) -> Iterator[PurePosixPath]:
    """Paths of all files below a folder, relative to it, sorted; what is hidden is left out.

    Links to folders are followed, each folder once: a link that leads back to where it lies ends there. OME-Zarr
    folders count as files.

    Raises
    ------
    ConfigError
        If there is no such folder, or more than 200,000 files.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one that holds images and annotations")
    found, seen, todo = list[PurePosixPath](), set[tuple[int, int]](), [folder]
    while todo:
        here = todo.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        # The folders of a real path come before those behind links, so that files get their own names.
        for entry in sorted(os.scandir(here), key=lambda e: (not e.is_symlink(), e.name)):
            path = here / entry.name
            if entry.name.startswith("."):
                continue
            if path.is_dir() and path.suffix != ".zarr":
                todo.append(path)
            elif path.exists():
                found.append(PurePosixPath(path.relative_to(folder)))
        if len(found) > MAX_FILES:
            raise ConfigError(f"{folder}: more than {MAX_FILES} files; name a folder with images and annotations only")
    yield from sorted(found)


def find_pairs(files: Sequence[PurePosixPath]) -> tuple[list[Pair], list[str]]:
    """What annotates what, told by the names.

    Parameters
    ----------
    files : sequence of PurePosixPath
        Paths below the folder.

    Returns
    -------
    list of Pair
        In the order of the images; images that nothing annotates are among them.
    list of str
        What was recognised and left out, in words.

    Raises
    ------
    ConfigError
        If two files annotate one image, or two images have one annotation.

    Examples
    --------
    >>> pairs, _ = find_pairs([PurePosixPath("images/a.png"), PurePosixPath("masks/a_mask.png")])
    >>> str(pairs[0].annotation)
    'masks/a_mask.png'
    """
    films, notes = film_pairs(files)
    if films:
        return films, notes
    told = {path: key_of(path) for path in files}
    folders = mask_folders({path: key for path, (key, _) in told.items() if key and ending_of(path) not in SHAPES})
    images, annotations = dict[str, PurePosixPath](), dict[str, PurePosixPath]()
    channels, how, inside = list[PurePosixPath](), set[str](), {*folders.values()}
    for path, (key, why) in told.items():
        if path.parent in inside:
            continue
        if key is None:
            channels += [path] if why == "channel" else []
            continue
        side = annotations if why else images
        if key in side:
            what = "annotations of one image" if why else "images of one name"
            raise ConfigError(f"{path}: expected one file, came two {what}, the other is {side[key]}; keep one of them")
        side[key] = path
        how |= {why} - {""}
    pairs = [Pair(image=path, annotation=annotations.get(key), split=split_of(path)) for key, path in images.items()]
    if folders:
        # Where all of them lie in one stage1_train, that is no split.
        alike = len({split_of(path) for path in folders}) == 1
        pairs = [
            replace(p, annotation=folders[p.image], split="" if alike else p.split) if p.image in folders else p
            for p in pairs
        ]
        notes.append(f"one mask per object in {len(folders)} folder(s) masks")
    used = {pair.annotation for pair in pairs}
    lone = [path for path in annotations.values() if path not in used]
    if any(pair.annotation and pair.image not in folders for pair in pairs):
        notes.append(f"annotations told by {', '.join(sorted(how))}")
    if lone:
        notes.append(f"{len(lone)} annotation(s) without an image are left out, as {lone[0]}")
    if channels:
        notes.append(
            f"{len(channels)} file(s) of further channels are left out, as {channels[0]}: a sample's channels come "
            "from one file; to use all, save those of a case as one OME-TIFF instead of its _0000, and set "
            "network.channels"
        )
    return pairs, notes


def key_of(path: PurePosixPath) -> tuple[str | None, str]:
    """What an image and its annotation have in common, and by what a file is told to be an annotation, or "".

    No key: the file is neither, or, with "channel", a further channel of nnU-Net's.
    """
    ending = ending_of(path)
    if ending not in IMAGE_SUFFIXES | SHAPES:
        return None, ""
    why = f"the ending {ending}" if ending in SHAPES else ""
    parts, stem = [], stem_of(path)
    for part in path.parts[:-1]:
        rest, annotates = folder_role(part)
        parts += [rest] if rest else []
        why = why or (f"folder {part}" if annotates else "")
        if part.lower() in ("imagestr", "imagests") and (channel := CHANNEL.fullmatch(stem)):
            if int(channel[2]):
                return None, "channel"
            stem = channel[1]
    for pattern, annotates in zip(SUFFIXES, (True, False), strict=True):
        match = pattern.fullmatch(stem)
        if match:
            why = why or (f"names with {stem[len(match[1]) :]}" if annotates else "")
            stem = match[1]
    return "/".join([*parts, stem]), why


def folder_role(name: str) -> tuple[str, bool]:
    """What is left of a folder's name without its role, and whether that is to hold annotations."""
    for pattern, annotates in zip(FOLDERS, (True, False), strict=True):
        match = pattern.fullmatch(name)
        if match:
            return f"{match[1]}{match[3]}".strip(" _-").lower(), annotates
    return name, False


def film_pairs(files: Sequence[PurePosixPath]) -> tuple[list[Pair], list[str]]:
    """Frames of the Cell Tracking Challenge: folder 01 with 01_GT/SEG, or 01_ST/SEG where there is no other truth."""
    truths: dict[tuple[str, int], tuple[PurePosixPath, int | None]] = {}
    for kind in ("ST", "GT"):
        for path in files:
            match = TRUTH.fullmatch(path.stem)
            if match and path.parent.name == "SEG" and path.parent.parent.name.endswith(f"_{kind}"):
                film = str(path.parent.parent).removesuffix(f"_{kind}")
                truths[film, int(match[1])] = (path, int(match[2]) if match[2] else None)
    films = {film for film, _ in truths}
    pairs = []
    for path in files:
        film, frame = str(path.parent), path.stem.removeprefix("t")
        if film in films and frame.isdigit() and path.suffix.lower() in IMAGE_SUFFIXES:
            truth, plane = truths.get((film, int(frame)), (None, None))
            name = f"{film}-{path.stem}"
            flat = None if plane is None else 0
            pair = Pair(image=path, annotation=truth, group=film, name=name, plane=plane, annotation_plane=flat)
            pairs.append(replace(pair, split=split_of(path)))
    notes = [f"Cell Tracking Challenge: {len(films)} film(s)"] if pairs else []
    return pairs, notes


def coco_pairs(folder: Path, files: Sequence[PurePosixPath], pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """Images without annotation that a COCO file lists get that file.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    files : sequence of PurePosixPath
        Paths below it.
    pairs : sequence of Pair
        What `find_pairs` found.

    Returns
    -------
    list of Pair
        The same images.
    list of str
        What was recognised, in words.
    """
    listed, notes = dict[str, PurePosixPath](), list[str]()
    for path in files:
        if path.suffix.lower() == ".json" and (folder / path).stat().st_size <= MAX_JSON:
            names = coco_names(folder / path)
            listed |= dict.fromkeys(names, path)
            notes += [f"COCO file {path}: {len(names)} image(s)"] if names else []
    taken = [pair if pair.annotation else replace(pair, annotation=listed.get(pair.image.name)) for pair in pairs]
    return taken, notes


def coco_names(path: Path) -> list[str]:
    """File names of the images that a COCO file lists; none if it is no such file."""
    try:
        data = json.loads(path.read_bytes())
        return [PurePosixPath(str(image["file_name"])).name for image in data["images"]] if data["annotations"] else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def split_of(path: PurePosixPath) -> str:
    """The split that the folders of a file tell, or "".

    Examples
    --------
    >>> split_of(PurePosixPath("imagesTr/a.png")), split_of(PurePosixPath("images/a.png"))
    ('train', '')
    """
    for part in path.parts[:-1]:
        match = SPLIT.fullmatch(folder_role(part)[0])
        if match:
            return "train" if match[1] else "val" if match[2] else "test"
    return ""


def split_lists(folder: Path, files: Iterable[PurePosixPath]) -> dict[str, str]:
    """Splits of images by the stem of their name, from lists such as BBBC039's training.txt and validation.txt."""
    splits: dict[str, str] = {}
    for path in files:
        match = SPLIT.fullmatch(path.stem)
        if path.suffix == ".txt" and match and (folder / path).stat().st_size <= 2**20:
            lines = (folder / path).read_text(encoding="utf-8", errors="replace").split("\n")
            name = "train" if match[1] else "val" if match[2] else "test"
            splits |= {PurePosixPath(line.strip()).stem: name for line in lines if line.strip()}
    return splits


def with_splits(pairs: Sequence[Pair], percent: tuple[float, float, float]) -> list[Pair]:
    """Give every pair a split: predict without annotation, else as it has one, else by a hash of its name.

    Parameters
    ----------
    pairs : sequence of Pair
        Their `split` counts where it is not empty.
    percent : (float, float, float)
        Of train, val and test, for the others.

    Returns
    -------
    list of Pair
        In the same order. Pairs of one group stay together where there are three groups or more. Each split that is
        wanted gets one group at least, where there are three or more.

    Examples
    --------
    >>> pairs = [Pair(image=PurePosixPath(f"{n}.png"), annotation=PurePosixPath("x")) for n in range(20)]
    >>> [sum(pair.split == split for pair in with_splits(pairs, (70, 15, 15))) for split in ("train", "val", "test")]
    [14, 3, 3]
    """
    annotated = [pair for pair in pairs if pair.annotation]
    if all(pair.split in ("val", "test") for pair in annotated):
        # Folders that leave nothing to learn from do not mean what they are named.
        annotated = [replace(pair, split="") for pair in annotated]
    open_ = [pair for pair in annotated if not pair.split]
    together = len({pair.group for pair in open_}) >= 3
    units = {pair.image: pair.group if together and pair.group else str(pair.image) for pair in open_}
    order = sorted(set(units.values()), key=lambda unit: hashlib.sha256(unit.encode()).digest())
    least = 1 if len(order) >= 3 else 0
    counts = [max(round(len(order) * p / sum(percent)), least) if p else 0 for p in percent[1:]]
    drawn = dict.fromkeys(order, "train")
    drawn |= dict.fromkeys(order[: counts[0]], "val") | dict.fromkeys(order[counts[0] : sum(counts)], "test")
    told = {pair.image: pair.split for pair in annotated}
    return [replace(p, split=(told[p.image] or drawn[units[p.image]]) if p.annotation else "predict") for p in pairs]


def named(pairs: Sequence[Pair]) -> list[Pair]:
    """Give every pair a name that the sample sheet takes: that of its file, with folders or numbers where needed.

    Parameters
    ----------
    pairs : sequence of Pair
        Their `name` counts where it is not empty.

    Returns
    -------
    list of Pair
        In the same order; names are unique without regard to case.

    Examples
    --------
    >>> [pair.name for pair in named([Pair(image=PurePosixPath(p)) for p in ("x/a (1).png", "y/A 1.png", "ж.tif")])]
    ['x-a_1', 'y-A_1', 's-dd591284']
    """
    short = [usable(pair.name or stem_of(pair.image)) for pair in pairs]
    often = [name.lower() for name in short]
    wanted = [
        usable("-".join([*pair.image.parts[:-1], stem_of(pair.image)])) if often.count(name.lower()) > 1 else name
        for pair, name in zip(pairs, short, strict=True)
    ]
    taken, names = set[str](), list[str]()
    for name in wanted:
        one, number = name, 1
        while one.lower() in taken:
            number += 1
            one = f"{name[:58]}-{number}"
        taken.add(one.lower())
        names.append(one)
    return [replace(pair, name=name) for pair, name in zip(pairs, names, strict=True)]


def ending_of(path: PurePath) -> str:
    """End of a file's name in small letters: ``.tif`` of ``a.ome.TIF``, both parts of ``a.geojson.gz``."""
    ending = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() + ending if ending == ".gz" else ending


def stem_of(path: PurePosixPath) -> str:
    """File name without its endings: ``a`` of ``a.ome.tif`` and of ``a.svs.geojson``."""
    stem = path.stem
    while PurePosixPath(stem).suffix.lower() in IMAGE_SUFFIXES | {".ome", ".geojson"}:
        stem = PurePosixPath(stem).stem
    return stem
