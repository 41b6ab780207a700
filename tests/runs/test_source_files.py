"""Files of a run's pictures: those that were scored, from the run's source or from folders that a person names."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zsad.errors import ImageError, UsageError
from zsad.images.reading import ImageRef
from zsad.runs.records import state_of
from zsad.runs.source_files import SourceFiles, facts_of_references, reference_of_run


def record(path: Path, name: str | None = None) -> dict[str, Any]:
    return {"name": name or path.name, "path": str(path), "file": state_of(ImageRef(path.name, path))}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/a.png"
    Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "outside.png").write_bytes(b"private")
    return path


def test_the_file_that_was_scored(picture: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(picture, "a.png")
    sources = {picture.parent: picture, picture: picture, picture.parent / "*.png": picture}
    sources |= {tmp_path / "some.zip": tmp_path / "some.zip/a.png"}
    for source, path in sources.items():
        assert SourceFiles({"source": str(source)}, leaves=True).find(record(path)) == path
    assert SourceFiles({}, leaves=False).find(record(picture)) == picture  # nothing is sent, so that it may lie anywhere


def test_other_files_are_not_read(picture: Path, tmp_path: Path) -> None:
    outside, link = tmp_path / "outside.png", picture.parent / "link.png"
    link.symlink_to(outside)
    files = SourceFiles({"source": str(picture.parent)}, leaves=True)
    for path in (outside, picture.parent / "../outside.png", link, picture / "../../outside.png"):
        with pytest.raises(ImageError, match="does not lie in"):
            files.find(record(path))
    for leaves in (True, False):
        forged = record(picture) | {"file": [str(picture), picture.stat().st_size, 1, 1]}
        with pytest.raises(ImageError, match="is not the file that was scored"):
            SourceFiles({"source": str(picture.parent)}, leaves=leaves).find(forged)
    for made_up in ({"path": None}, {"file": {}}, {"file": "x"}):
        with pytest.raises(ImageError, match="was scored from memory"):
            files.find(record(picture) | made_up)
    gone = record(picture.parent / "gone.png")
    with pytest.raises(ImageError, match="is not the file that was scored"):
        files.find(gone)


@pytest.mark.parametrize("source", ["-", "@list.txt", "@list[1].txt", "https://somewhere/a.png", None, 5])
def test_sources_that_are_no_place(source: Any) -> None:
    with pytest.raises(UsageError, match="it is not known which pictures may be sent. Name their folder with --source"):
        SourceFiles({"source": source}, leaves=True)


def test_folders_that_a_person_names(picture: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(picture.parent, tmp_path / "copied"))
    files = SourceFiles({"source": "-"}, [copied], leaves=True)
    assert files.find(record(picture)) == copied / "a.png"
    for name in ("../outside.png", str(tmp_path / "outside.png"), "b.png"):
        with pytest.raises(ImageError, match="does not lie in"):
            files.find(record(tmp_path / "outside.png", name))
    (copied / "a.png").write_bytes(b"of another size")
    with pytest.raises(ImageError, match="is not the file that was scored"):
        files.find(record(picture))
    with pytest.raises(UsageError, match="--source .* is no folder"):
        SourceFiles({}, [tmp_path / "nothing"], leaves=True)


def test_the_first_reference(picture: Path, tmp_path: Path) -> None:
    run = facts_of_references(str(picture.parent))
    assert run["references_from"] == str(picture.parent)
    assert reference_of_run(run) == picture
    assert reference_of_run(facts_of_references(None)) is None
    assert reference_of_run(facts_of_references(str(tmp_path / "nothing"))) is None
    outside = tmp_path / "outside.png"
    for first in ([str(outside), *run["first_reference"][1:]], state_of(ImageRef("o", outside)), [str(picture), 1, 1, 1]):
        with pytest.raises(ImageError, match="is gone, was changed, or lies elsewhere"):
            reference_of_run(run | {"first_reference": first})
