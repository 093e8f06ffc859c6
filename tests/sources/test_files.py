"""What a source consists of on disk, whether it is one file, a folder or linked in a circle."""

import hashlib
import os
from pathlib import Path

import pytest

from unetpipe.errors import SourceError
from unetpipe.sources.files import check_unchanged, sha256_of_source, source_files, source_stamp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a Zarr array."""
    for name in ("zarr.json", "c/0/0", "c/0/1"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text(name)
    return tmp_path / "a"


def test_a_file_is_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"pixels")
    assert sha256_of_source(tmp_path / "a.tif") == hashlib.sha256(b"pixels").hexdigest()


def test_bytes_names_and_places_count_and_times_do_not(folder: Path) -> None:
    digests = [sha256_of_source(folder)]
    os.utime(folder / "c" / "0" / "0", (1, 1))
    assert sha256_of_source(folder) == digests[0]
    folder.rename(folder.with_name("b"))
    assert sha256_of_source(folder.with_name("b")) == digests[0]
    folder.with_name("b").rename(folder)
    (folder / "c" / "0" / "1").write_text("other")
    digests.append(sha256_of_source(folder))
    (folder / "c" / "0" / "1").rename(folder / "c" / "0" / "2")
    digests.append(sha256_of_source(folder))
    (folder / "c" / "0" / "2").unlink()
    digests.append(sha256_of_source(folder))
    assert len(set(digests)) == 4


def test_links_are_followed_and_circles_refused(folder: Path) -> None:
    digest = sha256_of_source(folder)
    (folder / "c" / "0").rename(folder.with_name("elsewhere"))
    (folder / "c" / "0").symlink_to(folder.with_name("elsewhere"))
    assert sha256_of_source(folder) == digest
    (folder.with_name("elsewhere") / "back").symlink_to(folder / "c")
    with pytest.raises(SourceError, match="symbolic links that lead in a circle, from c/0/back"):
        source_files(folder)


def test_a_folder_that_is_no_image_is_not_read_through(tmp_path: Path) -> None:
    """Files alone may be masks, one per object: they are listed, but not what lies in a folder among them."""
    remedy = "name an image file, the folder of a Zarr image or, as annotation, one of a mask per object"
    with pytest.raises(SourceError, match=f"is a directory without files; {remedy}"):
        sha256_of_source(tmp_path)
    (tmp_path / "b.png").touch()
    (tmp_path / "a.png").touch()
    assert list(source_files(tmp_path)) == ["a.png", "b.png"]
    (tmp_path / "c").mkdir()
    with pytest.raises(SourceError, match=f"is a directory that holds c, which is no file; {remedy}"):
        sha256_of_source(tmp_path)


def test_companions_of_a_slide(tmp_path: Path) -> None:
    for name in ("s.mrxs", "s/Slidedat.ini", "s/Data0000.dat", "t.mrxs", "one.dcm", "two.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(source_files(tmp_path / "s.mrxs")) == ["s.mrxs", "s/Data0000.dat", "s/Slidedat.ini"]
    assert list(source_files(tmp_path / "t.mrxs")) == ["t.mrxs"]
    assert {"one.dcm", "two.dcm"} <= source_files(tmp_path / "one.dcm").keys()


def test_changes_are_noticed(folder: Path) -> None:
    stamp = source_stamp(folder)
    check_unchanged(folder, stamp)
    (folder / "c" / "0" / "7").touch()
    with pytest.raises(SourceError, match=r"a: changed while it was read \(c/0/7\); run again"):
        check_unchanged(folder, stamp)


def test_devices_and_pipes_are_not_opened(folder: Path) -> None:
    with pytest.raises(SourceError, match="is a device or pipe; name an image file"):
        sha256_of_source(Path("/dev/zero"))
    os.mkfifo(folder / "c" / "0" / "2")
    for look in (source_files, source_stamp, sha256_of_source):
        with pytest.raises(SourceError, match="a: holds c/0/2, a device or pipe; remove it"):
            look(folder)
    with pytest.raises(SourceError, match="a: holds c/0/2, a device or pipe"):
        check_unchanged(folder, {})
