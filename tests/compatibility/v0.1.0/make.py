"""Makes the artefacts of this folder with zsad 0.1.0: PYTHONPATH=CHECKOUT python make.py CHECKOUT EMPTY_FOLDER.

CHECKOUT is a checkout of commit 735c147. Every path that reaches a file is relative to the folder.
"""

from __future__ import annotations

import inspect
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PICTURES = {"pictures": (1,), "pictures/line": (3,), "normal": (2, 7, 9, 10, 11, 12), "some": (4, 6)}  # brick-XX.png
BROKEN = "pictures/broken.png"
BRICK = ["--target", "brick wall"]
TINY = ["--method", "winclip", "--backbone", "tiny", "--set", "scales=(2,)", "--roi", "10%,10%,90%,90%", "--keep-aspect"]
SMALL = ["--set", "context=3", "--set", "deep=3", "--set", "deep_length=2"]
LEVEL = ["--threshold", "0.5"]
TRAINING = ["finetune", "anomalyclip", "--backbone", "tiny", "--data", "data", "--categories", "tile", *SMALL]
TRAINING += ["--batch-size", "2", "--no-cache", "--device", "cpu", "--licence", "CC0-1.0"]
COMMANDS: list[list[str]] = [
    # the default model with fixed levels
    ["predict", "pictures", *BRICK, *LEVEL, "--pixel-threshold", "0.5", "--limit-report", "1", "--out", "run"],
    # references of WinCLIP on the backbone of the tests, and what it scores with them
    ["references", "references", "--add", "some", *TINY],
    ["predict", "pictures", *TINY, "--references", "references", *LEVEL, "--out", "with-references"],
    # calibrations without and with references, and the verdicts by them
    ["calibrate", "--normal", "normal", *BRICK, "--max-false-alarms", "0.2", "--out", "calibration.json"],
    ["predict", "pictures", *BRICK, "--calibration", "calibration.json", "--out", "calibrated"],
    [
        "calibrate",
        "--normal",
        "normal",
        *TINY,
        "--references",
        "references",
        "--max-false-alarms",
        "0.2",
        "--out",
        "calibration-with-references.json",
    ],
    [
        "predict",
        "pictures",
        *TINY,
        "--references",
        "references",
        "--calibration",
        "calibration-with-references.json",
        "--out",
        "calibrated-with-references",
    ],
    # AnomalyCLIP's prompts: trained for two epochs and for three, and converted from the authors' layout
    [*TRAINING, "--epochs", "2", "--out", "training"],
    [*TRAINING, "--epochs", "3", "--out", "longer-training"],
    [
        "predict",
        "pictures",
        "--method",
        "anomalyclip",
        "--backbone",
        "tiny",
        "--checkpoint",
        "training",
        *LEVEL,
        "--out",
        "trained",
    ],
    ["push", "training", "./published"],
    [
        "convert",
        "authors.pth",
        "--method",
        "anomalyclip",
        "--backbone",
        "tiny",
        "--trained-on",
        "random numbers",
        "--licence",
        "CC0-1.0",
        "--out",
        "converted.safetensors",
    ],
    [
        "predict",
        "pictures",
        "--method",
        "anomalyclip",
        "--backbone",
        "tiny",
        "--checkpoint",
        "converted.safetensors",
        *LEVEL,
        "--out",
        "converted",
    ],
    # an evaluation that is finished
    ["evaluate", "--data", "data", "--out", "evaluation"],
]
# an evaluation that Ctrl-C stopped between two batches: its first two pictures are on record
STOPPED = ["evaluate", "--data", "data", "--categories", "nut", *TINY, "--map-size", "16", "--batch-size", "2"]
STOP = """
import sys
from zsad.cli import main
from zsad.evaluation.keeping import Kept
add, count = Kept.add, []
def stop(self, *arguments):
    count.append(1)
    if len(count) == 3:
        raise KeyboardInterrupt
    add(self, *arguments)
Kept.add = stop
main()
"""
CONTEXT = """
import zsad
zsad.create("winclip", backbone="tiny", scales=(2,)).prepare("brick wall").save("context.safetensors")
"""
COMMAND_NAMES = (
    "evaluate",
    "predict",
    "calibrate",
    "references",
    "demo",
    "list",
    "prompts",
    "doctor",
    "convert",
    "finetune",
    "push",
)
TIME = 1735689600  # of change of the files of data/: an evaluation knows its pictures by it
RUNS = ("with-references", "calibrated", "calibrated-with-references", "trained", "converted")  # the rows of these are kept


def write_data(root: Path) -> None:
    """``data/<category>/{good,bad,masks}``: grey tiles of 48 px with grain, the bad ones with a dark square."""
    rng = np.random.default_rng(0)
    for category in ("nut", "tile"):
        for folder in ("good", "bad", "masks"):
            (root / category / folder).mkdir(parents=True)
        for number in range(4):
            grey = np.clip(rng.normal(150, 12, (12, 12)).repeat(4, 0).repeat(4, 1), 0, 255).astype(np.uint8)
            kind = "good" if number < 2 else "bad"
            if kind == "bad":
                mask = np.zeros_like(grey)
                y, x = rng.integers(4, 28, 2)
                mask[y : y + 14, x : x + 14] = 255
                grey[mask > 0] //= 4
                Image.fromarray(mask).save(root / category / "masks" / f"{number}.png")
            Image.fromarray(grey).convert("RGB").save(root / category / kind / f"{number}.png")
    for path in root.rglob("*.png"):
        os.utime(path, (TIME, TIME))


def write_authors_prompts(path: Path) -> None:
    """A file in the layout of AnomalyCLIP's authors, of the tiny backbone's width."""
    generator = torch.Generator().manual_seed(3)
    state = {f"ctx_{side}": torch.randn(1, 1, 3, 64, generator=generator) for side in ("pos", "neg")}
    for index in range(2):
        state[f"compound_prompts_text.{index}"] = torch.randn(2, 64, generator=generator)
        state[f"compound_prompt_projections.{index}.weight"] = torch.zeros(8, 64)
        state[f"compound_prompt_projections.{index}.bias"] = torch.zeros(8)
    torch.save({"prompt_learner": state}, path)


def main() -> None:
    checkout, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    os.environ |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.chdir(folder)
    for name, numbers in PICTURES.items():
        Path(name).mkdir()
        for number in numbers:
            shutil.copy(checkout / f"demo/examples/brick/brick-{number:02d}.png", name)
    Path(BROKEN).write_bytes(b"broken")
    write_data(Path("data"))
    write_authors_prompts(Path("authors.pth"))
    for words in COMMANDS:
        done = subprocess.run([sys.executable, "-m", "zsad", *words], check=False)
        assert done.returncode in (0, 3), words  # 3: one picture is broken
    subprocess.run([sys.executable, "-c", CONTEXT], check=True)
    stopped = subprocess.run([sys.executable, "-c", STOP, *STOPPED, "--out", "stopped-evaluation"], check=False)
    assert stopped.returncode == 130
    shutil.copytree("stopped-evaluation", "resumed")
    subprocess.run([sys.executable, "-m", "zsad", *STOPPED, "--out", "resumed", "--resume"], check=True)
    write_interface()
    tidy()


def write_interface() -> None:
    """``help.txt``: what every command's ``--help`` prints; ``names.txt``: the public names with their parameters."""
    texts = []
    for name in COMMAND_NAMES:
        done = subprocess.run([sys.executable, "-m", "zsad", name, "--help"], check=True, capture_output=True, text=True)
        texts.append(done.stdout.replace("python -m zsad", "zsad"))
    Path("help.txt").write_text("\n".join(texts))
    done = subprocess.run([sys.executable, __file__, "names"], check=True, capture_output=True, text=True)
    Path("names.txt").write_text(done.stdout)


def print_names() -> None:
    """A line per public name, function's parameters in brackets behind it, and per public member of a class."""
    import zsad

    inspector = zsad.Inspector("winclip", backbone="tiny")
    attributes = {"Inspector": vars(inspector), "Session": vars(zsad.Session(inspector))}
    attributes["Detector"] = dict.fromkeys(("backbone", "trained", "weights_sha256", "header", "name", "recipe"))
    for name in zsad.__all__:
        value = getattr(zsad, name)
        print(name + parameters_of(value))
        if inspect.isclass(value):
            own = {key for base in value.__mro__ if base.__module__.startswith("zsad") for key in vars(base)}
            own |= attributes.get(name, {}).keys() | getattr(value, "__annotations__", {}).keys()
            for key in sorted(key for key in own if not key.startswith("_")):
                print(f"{name}.{key}{parameters_of(getattr(value, key, None))}")


def parameters_of(value: Any) -> str:
    """Names in brackets, with * before those that are taken by keyword alone; "" of what is no function."""
    try:
        given = inspect.signature(value).parameters.values() if callable(value) else None
    except ValueError:
        given = None
    if given is None:
        return ""
    marks = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return f"({', '.join(marks.get(one.kind, '') + one.name for one in given if one.name != 'self')})"


def tidy() -> None:
    """Leaves what is kept: pictures are those of demo/examples, of most runs the rows are enough."""
    Path("expected").mkdir()
    for name in RUNS:
        Path(name, "predictions.jsonl").rename(f"expected/{name}.jsonl")
        shutil.rmtree(name)
    Path("longer-training/metrics.jsonl").rename("expected/longer-training.jsonl")
    Path("resumed/metrics.csv").rename("expected/stopped-evaluation.csv")
    Path("authors.pth").unlink()
    for name in (*PICTURES, "longer-training", "resumed"):
        shutil.rmtree(name, ignore_errors=True)
    for path in (Path("run/run.json"), Path("evaluation/metrics.json")):
        path.write_text(path.read_text().replace(platform.platform(), "Linux"))


if __name__ == "__main__":
    print_names() if sys.argv[1:] == ["names"] else main()
