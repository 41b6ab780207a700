"""Pictures in .zip and .tar archives: read in place, named as files are, one row for whatever is wrong with one."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.errors import ImageError, SourceNotFound
from zsad.images import archives
from zsad.images.containers import container_of, stat_of
from zsad.images.reading import ImageRef, list_images, load_image

ENDINGS = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive with these files, in this order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode: Any = "w:" + {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def outcome(ref: ImageRef) -> int | str:
    try:
        return int(load_image(ref).rgb[0, 0, 0])
    except ImageError as error:
        return str(error)


def outcomes(source: Any) -> dict[str, int | str]:
    return {ref.name: outcome(ref) for ref in list_images(source)}


@pytest.mark.parametrize("ending", ENDINGS)
def test_members_are_read_in_place(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"line 3/{i}.png": png(i) for i in (10, 2, 1)} | {"notes.txt": b"x", ".hidden.png": b"", "__MACOSX/._1.png": b""}
    path = pack(tmp_path / f"photos.{ending}", {**files, "nested.zip": b"PK", "é.PNG": png(7)})
    before = sorted(tmp_path.iterdir())
    found = outcomes(path)
    order = [1, 2, 10] if ending in ("zip", "tar") else [10, 2, 1]
    assert found == {f"{path.name}/line 3/{i}.png": i for i in order} | {f"{path.name}/é.PNG": 7}
    assert [name for name in found if "line" in name] == [f"{path.name}/line 3/{i}.png" for i in order]
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.chdir(tmp_path)
    for ref in list_images(path.name):
        assert ref.path == Path(ref.name)
        assert outcome(ImageRef("alone", ref.path)) == outcome(ref)
    assert len(outcomes([path, path])) == 8


@pytest.mark.parametrize("ending", ENDINGS)
def test_many_threads_read_the_right_members(tmp_path: Path, ending: str) -> None:
    path = pack(tmp_path / f"photos.{ending}", {f"{i}.png": png(i) for i in range(60)})
    refs = list(list_images(path)) * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(outcome, refs))
    assert found == list(range(60)) * 3


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/out.png", "C:\\out.png", "..\\out.png"])
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_no_name_leads_out(tmp_path: Path, name: str, ending: str) -> None:
    path = pack(tmp_path / f"photos.{ending}", {name: png(3), "good.png": png(4)})
    found = outcomes(path)
    assert found.pop(f"{path.name}/good.png") == 4
    ((label, reason),) = found.items()
    assert "has a name that leads out of its archive" in str(reason)
    assert ".." not in label
    assert label.startswith(path.name)


def test_backslashes_are_folders(tmp_path: Path) -> None:
    assert outcomes(pack(tmp_path / "a.zip", {"line 3\\1.png": png(3)})) == {"a.zip/line 3/1.png": 3}


def test_bombs_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SMALL", 100_000)
    zeros = bytes(3_000_000)
    path = pack(tmp_path / "a.zip", {"bomb.bmp": zeros, "good.png": png(4)})
    found = outcomes(path)
    assert found["a.zip/good.png"] == 4
    assert "to 3 MB, as no pictures do. It is not read any further" in str(found["a.zip/bomb.bmp"])
    found = outcomes(pack(tmp_path / "a.tar.gz", {"good.png": png(4), "bomb.bmp": zeros, "late.png": png(5)}))
    assert found["a.tar.gz/good.png"] == 4
    assert "as no pictures do" in str(found["a.tar.gz"])
    assert len(found) == 2
    monkeypatch.setattr(archives, "_LARGEST", 50)
    assert all(
        "is too large: it unpacks to" in str(one) for one in outcomes(pack(tmp_path / "b.tar", {"a.png": png(1)})).values()
    )


def test_a_member_of_many_pixels_is_refused_by_the_usual_limit(tmp_path: Path) -> None:
    (ref,) = list_images(pack(tmp_path / "a.zip", {"a.png": png(1)}))
    with pytest.raises(ImageError, match=r"^'a\.zip/a\.png' is too large: 8 x 6"):
        load_image(ref, max_pixels=40)


def test_damaged_encrypted_and_linked_members_are_rows(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"bad.png": png(1) * 30, "good.png": png(4), "empty.png": b""}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    found = outcomes(path)
    assert found["a.zip/good.png"] == 4
    assert "Bad CRC" in str(found["a.zip/bad.png"])
    assert "is empty" in str(found["a.zip/empty.png"])
    path = pack(tmp_path / "b.zip", {"a.png": png(1)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert "is encrypted" in str(outcomes(path)["b.zip/a.png"])
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "is a link in its archive" in str(outcomes(tmp_path / "c.tar")["c.tar/link.png"])


def test_one_name_twice_is_a_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png(2))
    assert "twice under one name" in str(outcomes(tmp_path / "a.zip")["a.zip/a.png"])


def test_a_tar_that_is_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar.gz", {f"{i}.png": os.urandom(3000) if i else png(9) for i in range(8)})
    path.write_bytes(path.read_bytes()[:12_000])
    found = outcomes(path)
    assert found["a.tar.gz/0.png"] == 9
    assert "is damaged after" in str(found["a.tar.gz"])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("data", [b"", b"<html>no archive</html>", b"PK\3\4", b"\x1f\x8b\x08rest"])
def test_no_archive_is_one_sentence(tmp_path: Path, ending: str, data: bytes) -> None:
    (tmp_path / f"a.{ending}").write_bytes(data)
    with pytest.raises(SourceNotFound, match="The archive .* (cannot be read|holds no picture)"):
        list_images(tmp_path / f"a.{ending}")
    (row,) = outcomes([tmp_path / f"a.{ending}"]).values()
    assert "The archive" in str(row)


def test_an_archive_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": b"", "b.zip": b""})
    with pytest.raises(SourceNotFound, match=r"The archive .*a\.zip' holds no picture; files seen: 2 \(1 \.txt, 1 \.zip\)"):
        list_images(path)


def test_an_archive_that_changes_is_read_anew(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2)})
    refs = list(list_images(path))
    assert [outcome(ref) for ref in refs] == [1, 2]
    pack(path, {"a.png": png(3)})
    os.utime(path, ns=(1, 1))
    assert outcome(refs[0]) == 3
    assert outcome(refs[1]) == "'a.zip/b.png' is not in the archive any more. Check whether the archive was changed."
    path.unlink()
    assert "cannot be read: No such file" in str(outcome(refs[0]))


def test_where_a_picture_is(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a/b.png": png(1)})
    assert container_of(path / "a/b.png") == (str(path), "a/b.png")
    assert container_of(tmp_path / "gone.png") is None
    assert container_of("gone.png") is None
    assert stat_of(path / "a/b.png").st_size == path.stat().st_size
    with pytest.raises(FileNotFoundError):
        stat_of(tmp_path / "gone.png")
