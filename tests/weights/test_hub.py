"""Weights for others: a folder or the hub, a card, and back; and the commands of training."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from annotated import write_set
from tiny_training import tiny
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.cli.finetune import open_sets
from zsad.errors import CheckpointMismatch, NotTrained, SourceNotFound, UsageError, WeightsUnavailable
from zsad.methods.april_gan import AprilGAN
from zsad.weights import download, hub
from zsad.weights.checkpoints import read_header, write_learned
from zsad.weights.hub import publish
from zsad.weights.learned import locate

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished run and its detector."""
    folder = tmp_path_factory.mktemp("trained")
    detector = tiny("anomalyclip", context=4)
    zsad.train(detector, write_set(folder / "parts"), folder / "run", epochs=2, batch_size=4, licence="CC-BY-4.0")
    return folder / "run", detector


def same(one: Any, other: Any) -> bool:
    pairs = [(tensor, other.learned_state()[key]) for key, tensor in one.learned_state().items()]
    return all(torch.equal(a, b) for a, b in pairs)


def command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


# ------------------------------------------------------------------ a folder and back
@pytest.mark.slow
def test_a_folder_and_back(trained: tuple[Path, Any], tmp_path: Path) -> None:
    out, detector = trained
    assert publish(out, tmp_path / "shared", figures={"image AUROC on kept-out pictures": 0.91234}) == str(tmp_path / "shared")
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"model.safetensors", "README.md"}
    again = zsad.from_pretrained(tmp_path / "shared")
    assert (again.name, again.context, again.backbone.image_size) == ("anomalyclip", 4, 80)
    assert (again.backbone.name, again.backbone.activation, again.backbone.position_embedding) == (
        "tiny",
        "quick_gelu",
        "bilinear",
    )
    assert same(detector, again)
    for source in (tmp_path / "shared", str(tmp_path / "shared"), out, out / "epoch_2.safetensors"):
        assert same(detector, zsad.create("anomalyclip", backbone=detector.backbone, checkpoint=source))
    again.push_to_hub(tmp_path / "twice")  # what was loaded keeps its header
    assert read_header(tmp_path / "twice" / "model.safetensors") == read_header(out / "final.safetensors")


def test_the_card_states_what_the_header_states(trained: tuple[Path, Any], tmp_path: Path) -> None:
    out, detector = trained
    detector.push_to_hub(tmp_path / "shared", figures={"image AUROC | kept-out": 0.91234, "pictures": 12})
    text = (tmp_path / "shared" / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\nlibrary_name: zsad\n")
    assert "| image AUROC \\| kept-out | 0.9123 |" in text
    assert "| parts | nut, tile | 16 | CC-BY-4.0 |" in text
    for number, loss in enumerate(read_header(out / "final.safetensors")["losses"], 1):
        assert f"| {number} | {loss:.4f} |" in text
    assert "context=4" in text
    settings = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert (settings["lr"], settings["epochs"], settings["seed"]) == (1e-3, 2, 111)
    bare = hub.card({"method": "compact"}, "./x", {})
    assert "None were given." in bare
    assert "as stated by who trained: not stated" in bare
    assert str(tmp_path) not in text
    assert 'from_pretrained("./shared")' in text
    assert bare.startswith("---\nlicense: other\n")


# ------------------------------------------------------------------ the hub
class Hub:
    """Stands for the hub, and keeps what would be uploaded."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.files, self.made = fails, dict[str, bytes](), dict[str, Any]()

    def __call__(self) -> Hub:
        return self

    def create_repo(self, repository: str, **options: Any) -> None:
        if self.fails:
            raise OSError("401 Unauthorized\nand more")
        self.made[repository] = options

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return f"https://hub/{repo_id}/commit/1"


def test_upload(trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    assert trained[1].push_to_hub("org/prompts", private=True) == "https://hub/org/prompts/commit/1"
    assert hub.made == {"org/prompts": {"private": True, "exist_ok": True}}
    assert set(hub.files) == {"model.safetensors", "README.md"}
    assert b'zsad.from_pretrained("org/prompts")' in hub.files["README.md"]
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub(fails=True))
    with pytest.raises(WeightsUnavailable, match=r"Nothing was uploaded to org/prompts: 401 Unauthorized\. Log in with"):
        trained[1].push_to_hub("org/prompts")


def test_what_is_a_folder_and_what_is_the_hub(
    trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder above it is here, a target is a folder in it; hf:// always means the hub."""
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ro").mkdir()
    folders = {"ro/name": "ro/name", "./a/b": "a/b", "~/c": "home/c", str(tmp_path / "d"): "d", "ro": "ro"}
    for target, place in folders.items():
        publish(trained[0], target)
        assert (tmp_path / place / "model.safetensors").is_file(), target
    publish(trained[0], Path("e/f"))
    assert (tmp_path / "e" / "f" / "model.safetensors").is_file()
    assert hub.made == {}
    for target in ("hf://ro/name", "org/name"):
        assert publish(trained[0], target) == f"https://hub/{target.removeprefix('hf://')}/commit/1"
    assert list(hub.made) == ["ro/name", "org/name"]
    assert not (tmp_path / "org").exists()
    for target in ("name", "a/b/c"):
        with pytest.raises(UsageError, match=rf"'{target}' is no 'org/name' of the hub\. A folder begins with"):
            publish(trained[0], target)


def test_download_is_announced(
    trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(trained[0], tmp_path / "remote")
    asked: list[str] = []

    def fetch(repository: str, file: str) -> str:
        assert asked[-1:] == [repository]  # announced before it starts
        return str(tmp_path / "remote" / file)

    monkeypatch.setattr(download, "announce_download", lambda name, repository, files: asked.append(repository))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    for source in ("org/prompts", "hf://org/prompts", Path("hf://org/prompts")):
        asked.clear()
        assert same(trained[1], zsad.from_pretrained(source))
    asked.clear()
    assert same(trained[1], zsad.create("anomalyclip", backbone=trained[1].backbone, checkpoint="hf://org/prompts"))


def test_offline_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match=r"org/nothing are not in the cache, and HF_HUB_OFFLINE is set"):
        zsad.create("april_gan", backbone=zsad.load_backbone("tiny"), checkpoint="hf://org/nothing")


# ------------------------------------------------------------------ refusals
def test_refusals(trained: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"neither final\.safetensors nor model\.safetensors"):
        locate(tmp_path)
    with pytest.raises(SourceNotFound, match=r"There are no weights at"):
        zsad.from_pretrained(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match=r"'name' is no 'org/name' of the hub"):
        publish(trained[0], "name")
    with pytest.raises(NotTrained):
        tiny("april_gan").push_to_hub(tmp_path / "shared")
    write_learned(tmp_path / "bare.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointMismatch, match=r"does not say which method it belongs to"):
        zsad.from_pretrained(tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"does not say what it is"):
        publish(tmp_path / "bare.safetensors", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_backbone_of_another_machine(trained: tuple[Path, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header = read_header(trained[0] / "final.safetensors")
    header["backbone"]["name"] = "file:weights.pt"
    write_learned(tmp_path / "w.safetensors", trained[1].learned_state(), header)
    with pytest.raises(CheckpointMismatch, match=r"learned on 'file:weights\.pt', a file of another machine\. Pass backbone="):
        zsad.from_pretrained(tmp_path / "w.safetensors")
    assert same(trained[1], zsad.from_pretrained(tmp_path / "w.safetensors", backbone=trained[1].backbone))
    weights = {"name": "compact", "image_size": 256, "weights_sha256": "0" * 64}
    compact = zsad.create("compact")
    compact.save(tmp_path / "c.safetensors")
    stored = read_header(tmp_path / "c.safetensors")
    write_learned(tmp_path / "c.safetensors", compact.learned_state(), stored | {"backbone": stored["backbone"] | weights})
    with caplog.at_level(logging.WARNING, "zsad"):
        zsad.from_pretrained(tmp_path / "c.safetensors")
    assert "learned on other weights of compact: 00000000" in caplog.text


# ------------------------------------------------------------------ the commands
@pytest.mark.slow
def test_finetune_and_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AprilGAN, "recipe", replace(AprilGAN.recipe, image_size=80))
    data, out = write_set(tmp_path / "parts"), tmp_path / "run"
    words = ["finetune", "april_gan", "--data", data, "--out", out, "--backbone", "tiny", "--device", "cpu"]
    code, output = command(*words, "--epochs", 2, "--batch-size", 4)
    assert code == 0, output
    losses = read_header(out / "final.safetensors")["losses"]
    assert f"Mean loss of the first epoch {losses[0]:.4f}, of the last {losses[1]:.4f}" in output
    assert "Learned from: parts (nut, tile). Licence: not stated." in output
    code, output = command(*words, "--epochs", 3, "--batch-size", 4)
    assert (code, "--resume" in output) == (2, True)
    code, output = command(*words, "--epochs", 3, "--batch-size", 4, "--resume", "--json")
    assert code == 0, output
    assert json.loads(output[output.index("{") :])["losses"][:2] == losses
    again = tmp_path / "again"
    code, output = command(*words[:5], again, *words[6:], "--epochs", 3, "--batch-size", 4, "--no-cache")
    assert code == 0, output  # first weights are seeded too; without the cache the last digits differ
    assert read_header(again / "final.safetensors")["losses"] == pytest.approx(
        read_header(out / "final.safetensors")["losses"], rel=1e-4
    )
    assert not (again / "cache").exists()
    (tmp_path / "figures.json").write_text('{"image AUROC": 0.5}')
    code, output = command("push", out, tmp_path / "shared", "--figures", tmp_path / "figures.json")
    assert (code, output.strip()) == (0, f"Published: {tmp_path / 'shared'}")
    assert "| image AUROC | 0.5 |" in (tmp_path / "shared" / "README.md").read_text()
    code, output = command("push", out, tmp_path / "shared", "--figures", data)
    assert (code, "cannot be read as JSON" in output) == (2, True)


@pytest.mark.slow
def test_finetune_on_some_categories_and_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AprilGAN, "recipe", replace(AprilGAN.recipe, image_size=80))
    data, other, out = write_set(tmp_path / "parts"), write_set(tmp_path / "others", ("nut", "bolt"), seed=1), tmp_path / "run"
    words = ["finetune", "april_gan", "--data", data, "--out", out, "--backbone", "tiny", "--device", "cpu", "--epochs", 1]
    code, output = command(*words, "--categories", "nut, bolt", "--data", other)
    assert code == 0, output
    assert "Learned from: parts (nut); others (bolt, nut)." in output
    code, output = command(*words, "--overwrite", "--categories", "tile", "--kinds", "defect", "--layout", "mvtec")
    assert code == 0, output
    learned = read_header(out / "final.safetensors")["data"][0]["pictures"]
    assert sorted(learned) == [f"parts/tile/test/defect/{n:03}.png" for n in range(4)]


def test_finetune_names_what_is_not_there(tmp_path: Path) -> None:
    data, other = write_set(tmp_path / "parts"), write_set(tmp_path / "others", ("bolt",))
    words = ["finetune", "april_gan", "--data", data, "--out", tmp_path / "run", "--backbone", "tiny"]
    for given, message in (
        (["--categories", "nuts"], "No category of the data is called 'nuts'. Did you mean 'nut'?"),
        (["--kinds", "good,crack"], "No kind of the data is called 'crack'."),
        (["--data", other, "--categories", "tile"], "No category of others is called 'tile'."),
        (["--layout", "mtd"], "is not of the layout 'mtd'"),
    ):
        code, output = command(*words, *given)
        assert (code, message in output) == (2, True), output
    assert not (tmp_path / "run").exists()


def test_finetune_tells_the_problems_of_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_set(tmp_path / "parts")
    (data / "manifest.csv").write_text("path,label\n../nut.png,1\nnut/test/good/000.png,0\n")
    open_sets([str(data / "manifest.csv")])
    assert "parts: 2 problems of the data, the first: manifest.csv line 2: '../nut.png' leads out of" in caplog.text


def test_commands_refuse(tmp_path: Path) -> None:
    data = write_set(tmp_path / "parts", bad=0)
    code, output = command("finetune", "winclip", "--data", data, "--out", tmp_path / "run")
    assert (code, "winclip has nothing to train" in output) == (2, True)
    code, output = command("finetune", "april_gan", "--data", data, "--out", tmp_path / "run", "--set", "lr=3")
    assert (code, "that is an option: --lr" in output) == (2, True)
    code, output = command(
        "finetune", "april_gan", "--data", tmp_path / "none", "--out", tmp_path / "run", "--backbone", "tiny"
    )
    assert (code, "There is no data set at" in output) == (2, True)
    assert not (tmp_path / "run").exists()
