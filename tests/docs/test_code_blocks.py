"""Every code block of README, start, concepts and how-tos is run on the examples; what is not run is marked with its reason.

A page whose code is the beginning of another's is run there.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import code_blocks
import pytest
from code_blocks import CODE, Block, blocks_of, pages
from typer.exceptions import TyperException
from typer.main import get_command
from typer.testing import CliRunner

from zsad.cli import app

ROOT = Path(__file__).resolve().parents[2]
CODE_OF = {page: [one for one in blocks_of(page) if one.language in CODE and not one.reason] for page in pages()}
TEXTS = {page: tuple((one.language, one.text) for one in code) for page, code in CODE_OF.items() if code}
RUN = [page for page, own in TEXTS.items() if not any(own == more[: len(own)] for more in TEXTS.values() if more != own)]
MARKED = [one for page in pages() for one in blocks_of(page) if one.reason]
REST = ("09", "10", "11", "12")  # of either set of examples; eight pictures are what verdicts need


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples in it, and bricks under the name that the README uses."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "demo/examples", tmp_path / "demo/examples")
    shutil.copytree(ROOT / "demo/examples/brick", tmp_path / "photos")
    return tmp_path


def in_a_shell(line: str) -> str:
    """What a command prints that is not ours."""
    program = f'set -o pipefail; python() {{ {shlex.quote(sys.executable)} "$@"; }}; {line}'
    done = subprocess.run(["bash", "-ec", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_command(line: str) -> None:
    """A command of a page: zsad in this process, fed by its pipe and printing into its file; others in a shell."""
    before, pipe, last = line.rpartition(" | ")
    if not last.startswith("zsad "):
        in_a_shell(line)
        return
    command, _, target = last.partition(" > ")
    found = CliRunner().invoke(app, shlex.split(command)[1:], input=in_a_shell(before) if pipe else None)
    assert found.exit_code == 0, f"{line}\n{found.output}"
    if target:
        Path(target).write_text(found.stdout, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_code_runs(page: str, place: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    if not any("brick-1" in block.text for block in CODE_OF[page]):  # two thirds of the pictures, two thirds of the time
        for path in [one for one in place.rglob("*.png") if one.stem.endswith(REST)]:
            path.unlink()
    for block in CODE_OF[page]:
        if block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
            continue
        for line in block.commands:
            if page == "README.md":
                shutil.rmtree("results", ignore_errors=True)  # its lines are alternatives
            run_command(line)


def words_of(block: Block) -> list[list[str]]:
    """The zsad commands of a marked block."""
    parts = [part.strip() for line in block.commands for part in line.split(" && ")]
    return [shlex.split(part) for part in parts if part.startswith("zsad ")]


def usage_error(words: list[str]) -> str:
    """What the command line says of a command that it cannot read; it is not carried out."""
    group: Any = get_command(app)
    try:
        group.commands[words[1]].make_context(words[1], words[2:])
    except (TyperException, KeyError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("block", MARKED, ids=lambda one: f"{one.page}:{one.line}")
def test_a_command_that_is_not_run_can_be_read(block: Block) -> None:
    for words in words_of(block) if block.language == "console" else []:
        assert usage_error(words) == "", words


def test_a_command_that_cannot_be_read_is_found() -> None:
    assert "No such option" in usage_error(["zsad", "predict", "photos/", "--nope"])
    assert "unexpected extra argument" in usage_error(["zsad", "export", "compact", "metal nut"])
    assert usage_error(["zsad", "absent"])


def test_reasons_are_given_and_known() -> None:
    known = ("needs ", "installs", "downloads ", "serves ", "takes ", "runs ", "recipe: ")
    for block in MARKED:
        assert block.reason.startswith(known), (block.page, block.line, block.reason)
    assert len(MARKED) < sum(map(len, CODE_OF.values())) + 25


def test_a_block_that_fails_is_found(place: Path) -> None:
    with pytest.raises(AssertionError, match="No such option"):
        run_command("zsad predict photos --no-such-option")
    with pytest.raises(AssertionError, match="missing"):
        run_command("ls missing")


def test_blocks_are_found_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note, console = "# T\n\n```{note}\nno\n```\n\n", "```console\n$ zsad list  # all\nout\n$ ls\n```\n\n"
    text = note + console + "<!-- not run: needs it -->\n```python\na\n```\n\n    zsad doctor\n"
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(code_blocks, "ROOT", tmp_path)
    found = blocks_of("page.md")
    assert [(one.language, one.reason) for one in found] == [("console", ""), ("python", "needs it"), ("console", "")]
    assert [one.commands for one in found if one.language == "console"] == [["zsad list", "ls"], ["zsad doctor"]]
