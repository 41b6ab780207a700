"""Trains the head of the embedded default's second tower and writes ``checkpoints/compact-vit-head.safetensors``.

    pip install 'zsad[train]'
    python scripts/train_compact_second.py --cache compact-cache

Pictures are drawn (``auxiliary_set.py``) and encoded once. Prints image AUROC on the families that are kept out of training,
a mean over families. The head of the first seed ships, whatever its figures. 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from auxiliary_set import CHOOSING, REPORTING, SIDE, draw
from torch import Tensor
from tqdm import tqdm

from zsad.alignment.losses import top_mean
from zsad.datasets import Sample, load_mask, open_dataset
from zsad.images.reading import load_image
from zsad.images.sources import ImageRef
from zsad.methods.compact.folder import LAST
from zsad.methods.compact.second import second_blocks
from zsad.methods.compact.second_head import HIGHEST, WEIGHTS, SecondHead
from zsad.metrics import image_auroc
from zsad.registry import load_backbone
from zsad.types import Tap
from zsad.weights.checkpoints import write_learned

ROOT = Path(__file__).parents[1]
PICTURES, KEPT, EPOCHS = 4000, 800, 12  # normal training pictures, kept-out ones, passes
BATCH, RATE, DECAY, DROPPED = 192, 1.5e-3, 0.02, 0.1  # pictures per step, learning rate, weight decay, share of channels
HEADER = {
    "trained_on": "procedural textures and objects, scikit-image and scikit-learn photographs, conformal-clip-data textiles",
    "defects": "synthetic (zsad.synthetic.defects)",
    "licence": "Apache-2.0",
    "reads": "block 6 of compact-vit.safetensors",
}


class Encoded(NamedTuple):
    """Pictures as the head sees them."""

    family: list[str]
    patches: Tensor  # (N, L, 384) float16
    cells: Tensor  # (N, h, w) defective part
    grid: tuple[int, int]

    def taps(self, rows: Tensor) -> Tap:
        """Some of them."""
        return Tap(self.patches[rows], self.grid)

    @property
    def labels(self) -> Tensor:
        """(N,) 1 anomalous."""
        return (self.cells.flatten(1).amax(1) > 0).float()


@torch.inference_mode()
def encode(samples: Iterable[Sample], title: str) -> Encoded:
    """Encodes pictures sixteen at a time."""
    vit, before = load_backbone("compact-vit"), load_backbone("compact").preprocess
    family, patches, cells, grid, rows = [], [], [], (0, 0), list(samples)
    for start in tqdm(range(0, len(rows), 16), desc=f"encoding {title}", disable=None):
        part = rows[start : start + 16]
        images = torch.stack([before(load_image(ImageRef(one.path.name, one.path)).rgb) for one in part])
        tap = second_blocks(vit, images, before)[LAST]
        grid = tap.grid
        masks = np.stack([load_mask(one, SIDE) if one.label else np.zeros((SIDE, SIDE), bool) for one in part])
        family += [one.category for one in part]
        patches.append(tap.patches)
        cells.append(F.adaptive_avg_pool2d(torch.from_numpy(masks)[:, None].float(), grid)[:, 0])
    return Encoded(family, torch.cat(patches), torch.cat(cells), grid)


def trained(data: Encoded, seed: int, epochs: int) -> SecondHead:
    """A head after AdamW with one cycle of the learning rate; half of the batches are mirrored."""
    torch.manual_seed(seed)
    head, labels = SecondHead(), data.labels
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    bar = tqdm(total=steps, desc=f"training, seed {seed}", disable=None)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(BATCH)[: len(labels) // BATCH]:
            with torch.no_grad():
                novel, residual = SecondHead.compare(data.taps(rows))
            cells = data.cells[rows]
            if torch.rand(()) < 0.5:
                novel, residual, cells = novel.flip(2), residual.flip(3), cells.flip(2)
            residual = F.dropout2d(residual, DROPPED)
            loss = head.loss(head(novel, residual), cells, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    return head.eval()


@torch.inference_mode()
def figures(head: SecondHead, data: Encoded) -> dict[str, float]:
    """Image AUROC of each family."""
    parts = torch.arange(len(data.cells)).split(64)
    scores = torch.cat([top_mean(head(*head.compare(data.taps(rows))), HIGHEST) for rows in parts])
    names = np.array(data.family)
    return {
        name: image_auroc(scores[torch.from_numpy(names == name)], data.labels[torch.from_numpy(names == name)])
        for name in sorted(set(data.family))
    }


def main() -> None:
    """Draws and encodes the pictures, trains each seed, measures it, and writes the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the drawn pictures")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="normal training pictures; each also with two defects")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / WEIGHTS)
    wanted = parser.parse_args()
    sets = {"train": wanted.cache / f"auxiliary-{wanted.pictures}", "kept": wanted.cache / "kept"}
    for name, folder in sets.items():
        if not folder.exists():
            draw(folder, wanted.pictures if name == "train" else KEPT, name == "kept")
    data, kept = (encode(open_dataset(folder, split=None), name) for name, folder in sets.items())
    for seed in wanted.seeds:
        head = trained(data, seed, wanted.epochs)
        found = figures(head, kept)
        for part, names in (("choosing", CHOOSING), ("reporting", REPORTING)):
            shown = ", ".join(f"{name} {found[name]:.3f}" for name in names)
            print(f"seed {seed}, {part}: {np.mean([found[name] for name in names]):.3f} ({shown})", flush=True)
        if seed == wanted.seeds[0]:
            half = {key: tensor.half() for key, tensor in head.state_dict().items()}
            write_learned(wanted.out, half, HEADER | {"seed": seed, "pictures": wanted.pictures, "epochs": wanted.epochs})


if __name__ == "__main__":
    main()
