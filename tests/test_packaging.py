"""The wheel and the sdist hold what they should, and nothing of a non-commercial licence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from zsad.common.assets import asset
from zsad.errors import WeightsUnavailable

pytest.importorskip("hatchling", reason="builds the package")
NEEDED = (
    "prompts/winclip.toml",
    "prompts/classes.toml",
    "prompts/compact.toml",
    "checkpoints/index.toml",
    "checkpoints/compact-tower.safetensors",
    "demo/app.py",
    "demo/zsad_demo/style.css",
    "demo/examples/brick/brick-01.png",
)


def checkout(root: Path, folder: Path) -> Path:
    """A copy of what the build reads, so that nothing is written into the checkout."""
    for name in ("zsad", "prompts", "checkpoints", "demo", "tests", "scripts", "benchmarks"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_assets"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(root / name, folder / name)
    return folder


def build(source: Path, target: str, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl" if target == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not (root / "pyproject.toml").is_file():
        pytest.skip("tests run outside a checkout")
    source = checkout(root, tmp_path_factory.mktemp("source"))
    sdist = build(source, "sdist", tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    for path in unpacked.rglob("*.safetensors"):  # packing these takes longest, and of this wheel only the names are looked at
        os.truncate(path, 0)
    return {
        "sdist": sdist,
        "wheel": build(source, "wheel", tmp_path_factory.mktemp("wheel")),
        "wheel from sdist": build(next(unpacked.iterdir()), "wheel", tmp_path_factory.mktemp("again")),
    }


def names(path: Path) -> list[str]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    with tarfile.open(path) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


@pytest.mark.slow
def test_contents(built: dict[str, Path]) -> None:
    for kind, path in built.items():
        found = names(path)
        for needed in NEEDED:
            assert (needed if kind == "sdist" else f"zsad/_assets/{needed}") in found, (kind, needed)
        assert not any("solar-cells" in name for name in found), kind
        assert "zsad/runs/report.css" in found, kind
        assert path.stat().st_size < 60e6, kind
    assert sorted(names(built["wheel"])) == sorted(names(built["wheel from sdist"]))
    assert not any(name.startswith(("tests/", "benchmarks/", "demo/")) for name in names(built["wheel"]))
    assert {"zsad/_assets/parity/winclip.npz", "zsad/_assets/parity/winclip.json"} <= set(names(built["wheel"]))


WORKS = """
import sys
import zsad
from zsad.prompts.prompt_set import PromptSet
assert zsad.__file__.startswith(sys.argv[1]), zsad.__file__
PromptSet.load('winclip')
zsad.create('compact').require_trained()
"""
DEMO = """
import runpy
from zsad.common.assets import asset
app = str(asset('demo/app.py'))
assert app.startswith(sys.argv[1]), app
page = runpy.run_path(app, run_name='zsad_demo_app')['build']()
said = str(page.get_config_file())
assert '12 brick walls' in said and 'solar cells' not in said
"""
COMMANDS = """
from {module} import {function}
for words in (['predict', '--help'], ['verify', 'musc']):
    sys.argv[1:] = words
    try: {function}()
    except SystemExit as end: assert not end.code, end.code
"""


@pytest.mark.slow
def test_the_package_its_demo_commands_and_proofs_work_in_an_environment_of_its_own(
    built: dict[str, Path], tmp_path: Path
) -> None:
    """What uvx and pipx do, but for the dependencies, which come from the environment of the tests.

    Nothing is read from the checkout. The proof is that a method equals its authors' code.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "own")], check=True)
    site = next((tmp_path / "own").rglob("site-packages"))
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = ["--disable-pip-version-check", "install", "--no-deps", "--no-index", "--no-compile", "--quiet"]
    install += ["--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(built["wheel"])], check=True)
    entry = (next(site.glob("zsad-*.dist-info")) / "entry_points.txt").read_text().splitlines()[1]
    module, _, function = entry.removeprefix("zsad = ").partition(":")
    code = WORKS + (DEMO if find_spec("gradio") else "") + COMMANDS.format(module=module, function=function)
    python = tmp_path / "own" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [str(python), "-c", code, str(site)]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--calibration" in done.stdout
    assert "\nmusc         equal " in done.stdout


def test_an_absent_asset_is_named() -> None:
    with pytest.raises(WeightsUnavailable, match=r"'prompts/absent\.toml' is not part of this installation"):
        asset("prompts/absent.toml")
