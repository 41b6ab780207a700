"""Kinds of defects that are found without labels, beside k-means on whole pictures, on folders of real pictures.

    python benchmarks/kinds.py DIR
    python benchmarks/kinds.py DIR --method musc --number 3 --json figures.json

DIR holds one folder per set: ``good/`` and ``bad/<kind>/``; sets with one kind are passed over. For each set, the agreement
with the folders' names of the groups that HDBSCAN finds, of as many groups as there are folders, and of k-means on whole
pictures with as many. NMI, ARI, and F1 after the best matching; 1 is best.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import zsad
from zsad.datasets import open_dataset
from zsad.errors import UsageError
from zsad.evaluation.kinds import evaluate_kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="compact")
    parser.add_argument("--backbone")
    parser.add_argument("--number", type=int, help="of groups, besides those that are found")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    print(f"{'set':22}{'groups':>22}{'NMI':>7}{'ARI':>7}{'F1':>7}")
    for folder in sorted(one for one in given.folder.iterdir() if (one / "bad").is_dir()):
        kinds = [one for one in (folder / "bad").iterdir() if one.is_dir()]
        if len(kinds) < 2:
            continue
        detector = zsad.create(given.method, backbone=given.backbone)
        data = open_dataset(folder, split=None)
        for number, name in (
            (None, "found"),
            ("true", "as many as kinds"),
            *([(given.number, "as asked")] if given.number else []),
        ):
            try:
                found = evaluate_kinds(detector, data, number)[0]
            except UsageError as error:
                print(f"{folder.name:22}{name:>22}  {error}")
                continue
            rows.append({"set": folder.name, "how": name} | found.as_dict())
            print(f"{folder.name:22}{f'{name}: {found.groups}':>22}" + "".join(f"{one:7.3f}" for one in found.regions))
        print(f"{folder.name:22}{f'k-means, pictures: {found.kinds}':>22}" + "".join(f"{one:7.3f}" for one in found.whole))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
