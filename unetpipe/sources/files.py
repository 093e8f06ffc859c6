"""What a source is made of on disk: its files, the digest of their bytes, and whether they stay the same."""

import hashlib
import os
from pathlib import Path

from unetpipe.sources.ngff import is_zarr
from unetpipe.sources.refusals import damage_reported, refusal

__all__ = [
    "SourceStamp",
    "check_unchanged",
    "files_below",
    "listed_files",
    "sha256_of_file",
    "sha256_of_source",
    "source_files",
    "source_stamp",
]

SourceStamp = dict[str, tuple[int, int]]
"""Size in bytes and time of the last change in ns of each file."""

# Of masks in a folder.
_MOST_MASKS = 20_000

# Slides whose first file only lists the others: in a folder of the same stem, or all beside it.
_STEM_FOLDER = (".mrxs",)
_INDEX = (".vms", ".vmu")
_BESIDE = (*_INDEX, ".dcm")
# OpenSlide takes no longer index.
_INDEX_LIMIT = 2**16


def source_files(path: Path) -> dict[str, Path]:
    """All files of a source, by their place in it.

    Parameters
    ----------
    path : Path
        A file, a slide's first file, or a folder: of Zarr, or of files only, one mask per object. Symbolic links are
        followed.

    Returns
    -------
    dict of str to Path
        Sorted by name; the name of a single file is its own.

    Raises
    ------
    SourceError
        If links lead from a Zarr folder to one that it lies in; if another folder holds folders, nothing, or more than
        20,000 files; for a device or pipe, which has no end.
    """
    if path.is_dir():
        return files_below(path) if is_zarr(path) else _mask_files(path)
    if path.suffix.lower() in _STEM_FOLDER and path.with_suffix("").is_dir():
        return {path.name: path} | dict(sorted(_files_below(path.with_suffix(""), path.parent, {}).items()))
    if path.suffix.lower() in _BESIDE:
        return {file.name: file for file in sorted(path.parent.iterdir()) if file.is_file()}
    if path.exists() and not path.is_file():
        raise refusal(path, "is a device or pipe; name an image file")
    return {path.name: path}


def _mask_files(folder: Path) -> dict[str, Path]:
    """Files of a folder that holds nothing else; what is hidden does not count."""
    remedy = "name an image file, the folder of a Zarr image or, as annotation, one of a mask per object"
    found = list[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not (folder / entry.name).is_file():
                raise refusal(folder, f"is a directory that holds {entry.name:.60}, which is no file; {remedy}")
            found.append(entry.name)
            if len(found) > _MOST_MASKS:
                raise refusal(folder, f"is a directory of more than {_MOST_MASKS} files; {remedy}")
    if not found:
        raise refusal(folder, f"is a directory without files; {remedy}")
    return {name: folder / name for name in sorted(found)}


def listed_files(path: Path) -> set[str]:
    """Names of the files beside a slide's index that it lists; none if the file is no such index.

    Parameters
    ----------
    path : Path
        Hamamatsu's .vms or .vmu: lines ``key=value``, of which some values are names of JPEGs or NGRs beside it.

    Returns
    -------
    set of str
        All values, whether they are names or not; without the index itself.
    """
    if path.suffix.lower() not in _INDEX:
        return set()
    with path.open("rb") as file:
        # As the names of files are decoded, so that the two compare whatever their encoding is.
        lines = file.read(_INDEX_LIMIT).decode("utf-8", "surrogateescape").splitlines()
    return {line.partition("=")[2].strip() for line in lines} - {"", path.name}


def files_below(folder: Path) -> dict[str, Path]:
    """All files of a folder and those in it, by their path in it; symbolic links are followed.

    Parameters
    ----------
    folder : Path
        Where to look.

    Raises
    ------
    SourceError
        If links lead in a circle, or twice to one folder: what is linked again and again has no end. If there is a
        device or pipe: whoever opens it waits.
    """
    return dict(sorted(_files_below(folder, folder, {}).items()))


def _files_below(folder: Path, root: Path, met: dict[str, Path]) -> dict[str, Path]:
    """Files of a folder and those in it; `met` are the real paths of folders so far, and where they were met."""
    real, place = os.path.realpath(folder), folder.relative_to(root)
    if real in met:
        circle = f"in a circle, from {place}" if folder.is_relative_to(root / met[real]) else f"twice to {place}"
        raise refusal(root, f"has symbolic links that lead {circle}; remove them")
    met[real] = place
    found: dict[str, Path] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _files_below(entry, root, met)
        elif entry.is_file():
            found[entry.relative_to(root).as_posix()] = entry
        elif entry.exists():
            raise refusal(
                root, f"holds {entry.relative_to(root)}, a device or pipe; remove it, or copy the folder again"
            )
    return found


def sha256_of_source(path: Path) -> str:
    """Digest of all bytes of a source.

    Parameters
    ----------
    path : Path
        See `source_files`.

    Returns
    -------
    str
        SHA-256 in hexadecimal: of the file's bytes, or of the names and digests of several files.
    """
    files = source_files(path)
    digests = {name: sha256_of_file(file) for name, file in files.items()}
    if list(files.values()) == [path]:
        return digests[path.name]
    return hashlib.sha256("".join(f"{digest} {name}\n" for name, digest in digests.items()).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_stamp(path: Path) -> SourceStamp:
    """Sizes and times of a source's files, to be compared by `check_unchanged`.

    Parameters
    ----------
    path : Path
        See `source_files`; of what is not there, the stamp is empty.

    Raises
    ------
    SourceError
        If a file or folder may not be looked at, or is none.
    """
    with damage_reported(path):
        found = {name: file.stat() for name, file in source_files(path).items()} if path.exists() else {}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


def check_unchanged(path: Path, stamp: SourceStamp) -> None:
    """Refuse a source that is not what it was: what was read of it may be half of each.

    Parameters
    ----------
    path : Path
        See `source_files`.
    stamp : dict
        What `source_stamp` gave before the first read.

    Raises
    ------
    SourceError
        If a file came, went, or has another size or time.
    """
    now = source_stamp(path)
    changed = sorted(name for name in stamp.keys() | now.keys() if stamp.get(name) != now.get(name))
    if changed:
        where = "" if changed == [path.name] else f" ({changed[0]})"
        raise refusal(path, f"changed while it was read{where}; run again when nothing writes to it any more")
