"""What the batch rule of ``zsad.decision.thresholds`` does on made scores: false alarms of normal pictures, and defects found.

    python benchmarks/batch_rule.py

Scores of normal pictures have deviation 1, Gaussian or right-skewed (Gumbel); defects lie 4 or 6 deviations higher.
"""

from __future__ import annotations

import numpy as np

from zsad.decision.thresholds import levels

RUNS = 400


def normal(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=count) if kind == "gaussian" else rng.gumbel(size=count) * np.sqrt(6) / np.pi


def share(scores: np.ndarray, of: slice) -> float:
    """Part of ``scores[of]`` that the rule calls anomalous; none where there is no rule."""
    found = levels(scores)
    return 0.0 if isinstance(found, str) else float(np.mean(scores[of] >= found[1]))


def main() -> None:
    rng = np.random.default_rng(0)
    print("| normal scores | pictures | defects | false alarms | found at 4 deviations | found at 6 deviations |")
    print("|---|---|---|---|---|---|")
    for kind in ("gaussian", "gumbel"):
        for count, defects in ((8, 0), (12, 0), (40, 0), (500, 0), (12, 4), (40, 4), (100, 10), (100, 33)):
            cells = []
            for distance in (4, 6):
                runs = []
                for _ in range(RUNS):
                    good, bad = normal(kind, count - defects, rng), distance + normal(kind, defects, rng)
                    scores = np.concatenate([good, bad])
                    found = share(scores, slice(count - defects, None)) if defects else float("nan")
                    runs.append((share(scores, slice(0, count - defects)), found))
                cells.append(np.mean(runs, axis=0))
            hits = " | ".join("" if np.isnan(cell[1]) else f"{cell[1]:.1%}" for cell in cells)
            print(f"| {kind} | {count} | {defects} | {cells[1][0]:.2%} | {hits} |")


if __name__ == "__main__":
    main()
