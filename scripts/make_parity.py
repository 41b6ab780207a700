"""Writes ``tests/parity``: of the full set of reference outputs the part that comes with the package.

    python scripts/make_parity.py FULL_SET [--out tests/parity]

The rule, for every fixture of ``zsad.verification``:

* inputs (pictures, masks, cluster labels) are kept whole;
* of every other array that its proof compares, at most ``VALUES`` evenly spaced values of the flattened array are kept: every
  n-th, from the first on. So each kind of output, each layer and each variant is proved, at fewer places;
* arrays that no proof compares, and those that a proof marks as too large (``full_only``), are left out;
* of the settings all is kept; ``sampled`` says for each thinned array its shape and n.

The files are the same bytes at every run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from zsad.verification.proof import Proof, list_proofs, matches

VALUES = 2048  # of an array
LARGEST = 500_000  # bytes of a file


def write_part(proof: Proof, full: Path, out: Path) -> int:
    """Writes one fixture; returns the bytes of both files.

    Raises:
        SystemExit: a file would be larger than ``LARGEST``.
    """
    settings = json.loads((full / f"{proof.fixture}.json").read_text(encoding="utf-8"))
    arrays, sampled = {}, {}
    with np.load(full / f"{proof.fixture}.npz") as file:
        for key in file.files:
            if matches(key, (*proof.left_out, *proof.full_only)):
                continue
            array = file[key]
            every = 1 if matches(key, proof.inputs) else -(-array.size // VALUES)
            arrays[key] = array if every == 1 else array.reshape(-1)[::every]
            if every > 1:
                sampled[key] = [list(array.shape), every]
    out.mkdir(parents=True, exist_ok=True)
    paths = out / f"{proof.fixture}.npz", out / f"{proof.fixture}.json"
    np.savez_compressed(paths[0], **arrays)
    paths[1].write_text(json.dumps(settings | {"sampled": sampled}, indent=1) + "\n", encoding="utf-8")
    for path in paths:
        if path.stat().st_size > LARGEST:
            raise SystemExit(f"{path} has {path.stat().st_size} bytes, and may have {LARGEST}. Lower VALUES.")
    return sum(path.stat().st_size for path in paths)


def main() -> None:
    """Writes all fixtures and prints their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="folder of the full set: <fixture>.npz and .json")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "tests/parity")
    wanted = parser.parse_args()
    for proof in list_proofs().values():
        print(f"{proof.fixture:12} {write_part(proof, wanted.full, wanted.out) / 1000:6.0f} kB")


if __name__ == "__main__":
    main()
