"""Converts Tipsomaly's published prompts into ``checkpoints/tipsomaly-*.safetensors``, once.

    git clone https://github.com/AlirezaSalehy/Tipsomaly && git -C Tipsomaly checkout 7eb43a7
    python scripts/vendor_tipsomaly.py Tipsomaly

The files of epoch 2, which the authors' figures are of, are read without executing their pickles; the values are unchanged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vendoring import CHECKPOINTS

from zsad.prompts.prefix_pair import PREFIX_FILE
from zsad.weights.checkpoints import read_state_dict, sha256_of, write_learned

TRAINED_ON = {"mvtec": "MVTec AD, test split (CC BY-NC-SA 4.0)", "visa": "VisA, test split (CC BY 4.0)"}
BACKBONE = {"name": "tips-l14-hr", "image_size": 518, "activation": "gelu", "position_embedding": "bilinear_antialias"}


def convert(source: Path, target: Path, trained_on: str, inside: str) -> None:
    """Writes one file."""
    header = {
        "method": "tipsomaly",
        "arguments": {},
        "backbone": BACKBONE,
        "trained_on": trained_on,
        "licence": "MIT",
        "source": f"https://github.com/AlirezaSalehy/Tipsomaly at 7eb43a7: {inside}",
        "source_sha256": sha256_of(source),
    }
    write_learned(target, PREFIX_FILE.own_names(read_state_dict(source)), header)


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS)
    given = parser.parse_args()
    for tag, trained_on in TRAINED_ON.items():
        inside = f"workspaces/trained_on_{tag}_default/vegan-arkansas/checkpoints/learnable_params_2.pth"
        convert(given.repository / inside, given.out / f"tipsomaly-{tag}.safetensors", trained_on, inside)


if __name__ == "__main__":
    main()
