"""Does training learn? Loss and AUROC before and after, on pictures that were not trained on; cost with and without the cache.

    pip install 'zsad[train]'
    python benchmarks/finetune.py                      # three methods on the seeded tiny backbone, three seeds
    python benchmarks/finetune.py --method compact     # the embedded default, which starts from the weights that ship
    python benchmarks/finetune.py --default DIR        # the embedded default's head from nothing; pictures and runs go to DIR
    python benchmarks/finetune.py --full               # AnomalyCLIP on ViT-L/14-336 at 518 px: seconds per picture, peak memory

Textures and defects come from one generator, with other seeds for the unseen pictures; maps are scored at model size. The tiny
backbone has random weights: the figures say that a falling loss separates better, and nothing about real pictures. Its class
token hardly knows of a defect (a linear probe on 160 pictures reaches 0.61), so no image score that reads it can learn much.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from memory import peak_mb
from PIL import Image
from scipy import ndimage

import zsad
from zsad.alignment.losses import top_mean
from zsad.backbones import openclip
from zsad.metrics import auroc
from zsad.registry import method_class
from zsad.synthetic.defects import make_defect

KINDS = ("hole", "stain", "colour", "broken")
CATEGORIES = ("wood", "stone")
EPOCHS = {"anomalyclip": 15, "adaclip": 5, "april_gan": 15, "compact": 5}
Array = np.ndarray[Any, Any]


def texture(rng: np.random.Generator, category: str, side: int) -> Array:
    """Tinted noise: drawn out for wood, even for stone."""
    reach = (side / 80, side / 12) if category == "wood" else (side / 40, side / 40)
    grain = ndimage.gaussian_filter(rng.normal(size=(side, side)), reach)
    grey = rng.uniform(145, 155) + 8 * grain / grain.std()
    return np.clip(grey[..., None] + rng.normal(0, 2, 3), 0, 255).astype(np.uint8)


def drawn(count: int, seed: int, side: int) -> list[tuple[str, Array, Array]]:
    """``count`` normal pictures and as many with a defect, by turns: category, picture, mask."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        category = CATEGORIES[number % len(CATEGORIES)]
        found.append((category, texture(rng, category, side), np.zeros((side, side), np.uint8)))
        bad, mask, _ = make_defect(texture(rng, category, side), rng, KINDS[number % len(KINDS)])
        found.append((category, bad, mask))
    return found


def write(rows: list[tuple[str, Array, Array]], root: Path) -> Path:
    """MVTec's layout."""
    for number, (category, rgb, mask) in enumerate(rows):
        kind, truth = "defect" if mask.any() else "good", root / category / "ground_truth" / "defect"
        for folder in (truth, root / category / "test" / kind):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(root / category / "test" / kind / f"{number:04}.png")
        if mask.any():
            Image.fromarray(mask * 255).save(truth / f"{number:04}_mask.png")
    return root


@torch.inference_mode()
def aurocs(detector: Any, rows: list[tuple[str, Array, Array]]) -> tuple[float, float, float]:
    """Of all pixels of the set; of pictures by their map's highest 1 %; of pictures by the method's own score."""
    contexts = {category: detector.prepare(category) for category in CATEGORIES}
    found = [detector(detector.backbone.preprocess(rgb)[None], contexts[category]) for category, rgb, _ in rows]
    labels, masks = [int(mask.any()) for *_, mask in rows], np.stack([mask for *_, mask in rows])
    maps = torch.cat([one.anomaly_map for one in found])
    own = [float(one.pred_score) for one in found]
    return auroc(maps.numpy().ravel(), masks.ravel()), auroc(top_mean(maps, 0.01).numpy(), labels), auroc(own, labels)


def built(method: str, seed: int) -> Any:
    """The method with seeded first weights; those of ``compact`` are the ones that ship."""
    torch.manual_seed(seed)
    if method == "compact":
        return zsad.create(method)
    recipe = method_class(method).recipe
    tower = zsad.load_backbone(
        "tiny", activation=recipe.activation, position_embedding=recipe.position_embedding, image_size=80
    )
    return method_class(method)(tower).eval()


def learning(method: str, seed: int, count: int) -> list[float]:
    """First and last epoch's loss, then before and after of each of ``aurocs``."""
    detector = built(method, seed)
    side = detector.backbone.image_size
    unseen = drawn(count, 1000 + seed, side)
    before = aurocs(detector, unseen)
    with tempfile.TemporaryDirectory() as folder:
        data = write(drawn(count, seed, side), Path(folder) / "textures")
        header = zsad.train(detector, data, Path(folder) / "run", seed=seed, epochs=EPOCHS[method], device="cpu")
    after = aurocs(detector, unseen)
    losses = header["losses"]
    return [losses[0], losses[-1], *(value for pair in zip(before, after, strict=True) for value in pair)]


def table(methods: list[str], seeds: list[int], count: int) -> None:
    """A row per method and seed, and their means."""
    print("| method | seed | loss, first epoch | last | AUROC, pixels | after | pictures by map | after | own score | after |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method in methods:
        rows = []
        for seed in seeds:
            rows.append(learning(method, seed, count))
            print(f"| {method} | {seed} | " + " | ".join(f"{value:.3f}" for value in rows[-1]) + " |", flush=True)
        means = [mean(column) for column in zip(*rows, strict=True)]
        print(f"| {method} | mean | " + " | ".join(f"{value:.3f}" for value in means) + " |", flush=True)


def default(cache: Path, seeds: list[int], against: list[Path]) -> None:
    """The embedded default's head, alone and in the detector: of random weights, trained by ``zsad.train``, as it ships.

    On families of pictures that no head was trained on, and there on the kind of defect that none was trained on either.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from auxiliary_set import CHOOSING, REPORTING
    from compact_rules import combine, head_outputs, kept_out_quality, part_of
    from train_compact import EPOCHS, PICTURES, Experiment, compared

    experiment = Experiment(cache, PICTURES)

    def show(name: str, detector: Any, data: Any, head: bool = True, whole: bool = True) -> None:
        kept, parts = part_of(data, head_outputs(detector, data, experiment.synonyms), REPORTING)
        values = []
        for wanted, grid in ((head, parts.logit), (whole, combine(parts, detector.weights))):
            values += [f"{value:.3f}" if wanted else "-" for value in kept_out_quality(kept, grid).values()]
        print(f"| {name} | " + " | ".join(values) + " |", flush=True)

    what = ("image", "pixel", "unseen kind, image", "unseen kind, pixel")
    print("| head | " + " | ".join(f"{part}: {one}" for part in ("head alone", "detector") for one in what) + " |")
    print("|---" * 9 + "|")
    for seed in seeds:
        show(f"untrained, seed {seed}", experiment.untrained(seed), experiment.kept, whole=False)
        detector = experiment.trained(seed, EPOCHS)
        experiment.finish(detector)
        show(f"trained, seed {seed}", detector, experiment.kept)
    detector.weights[0] = 0
    show("novelty without a head", detector, experiment.kept, head=False)
    for path in (None, *against):
        other = zsad.create("compact", checkpoint=path)
        show(str(path or "as shipped"), other, compared(other, experiment.kept))
    print(f"\n- AUROC on {', '.join(REPORTING)}; the weights of the parts were chosen on {', '.join(CHOOSING)}")


def full() -> None:
    """AnomalyCLIP on a ViT-L/14-336 of random weights, batch 1: the second epoch's seconds per picture, and peak memory."""
    recipe = method_class("anomalyclip").recipe
    options = {key: getattr(recipe, key) for key in ("activation", "position_embedding", "image_size")}
    tower = openclip.build(recipe.backbone, recipe.backbone.partition(".")[0], **options).eval().requires_grad_(False)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        data = write(drawn(1, 0, recipe.image_size), Path(folder) / "textures")
        for cache in (True, False):
            out = Path(folder) / str(cache)
            detector = zsad.create("anomalyclip", backbone=tower)
            zsad.train(detector, data, out, epochs=2, batch_size=1, cache=cache, device="cpu")
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            seconds[cache] = rows[-1]["seconds"] / 2
            figures = f"{seconds[cache]:.2f} s per picture, peak so far {peak_mb() / 1000:.2f} GB"
            print(f"- cache {'on' if cache else 'off'}: {figures}", flush=True)
    print(f"- {seconds[False] / seconds[True]:.1f} times the pictures per second with the cache, at batch 1")


def main() -> None:
    """Prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=list(EPOCHS), default=["anomalyclip", "adaclip", "april_gan"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=40, help="normal pictures, and as many with a defect; so many unseen too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--default", type=Path, metavar="DIR")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="more heads to measure so")
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("zsad").setLevel(logging.ERROR)
    if given.full:
        full()
    elif given.default:
        default(given.default, given.seeds, given.against)
    else:
        table(given.method, given.seeds, given.count)
    print(f"\n- torch {torch.__version__}, zsad {zsad.__version__}, {given.threads} threads")


if __name__ == "__main__":
    main()
