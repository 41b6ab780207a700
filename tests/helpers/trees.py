"""Small data sets in every layout, with the rows that their reader should find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 8, 6
Row = tuple[str, int | None, str | None, str, str, str]  # path, label, mask, category, split, kind


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)


def mask(path: Path, value: int = 255, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """One defect of 2 x 3 pixels; 0 is an empty mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size[::-1], np.uint8)
    values[1:3, 2:5] = value
    Image.fromarray(values).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def fill(root: Path, rows: Sequence[Row]) -> list[Row]:
    """Makes the pictures and masks of rows."""
    for path, _, truth, *_ in rows:
        picture(root / path)
        if truth:
            mask(root / truth)
    return list(rows)


# ---------------------------------------------------------------- MVTec's layout and similar ones
def mvtec_rows(category: str, below: str = "") -> list[Row]:
    return [
        (f"{below}train/good/000.png", 0, None, category, "train", "good"),
        (f"{below}test/crack/000.png", 1, f"{below}ground_truth/crack/000_mask.png", category, "test", "crack"),
        (f"{below}test/crack/001.png", 1, f"{below}ground_truth/crack/001_mask.png", category, "test", "crack"),
        (f"{below}test/good/000.png", 0, None, category, "test", "good"),
    ]


def mvtec(root: Path) -> list[Row]:
    return fill(root, [*mvtec_rows("bottle", "bottle/"), *mvtec_rows("metal_nut", "metal_nut/")])


def one_category(root: Path) -> list[Row]:
    return fill(root, mvtec_rows(root.name))


def btad(root: Path) -> list[Row]:
    return fill(
        root,
        [
            ("01/train/ok/0000.bmp", 0, None, "01", "train", "ok"),
            ("01/test/ko/0003.bmp", 1, "01/ground_truth/ko/0003.png", "01", "test", "ko"),
            ("01/test/ok/0003.bmp", 0, None, "01", "test", "ok"),
            ("02/test/ko/0001.png", 1, "02/ground_truth/ko/0001.bmp", "02", "test", "ko"),
        ],
    )


def loco(root: Path) -> list[Row]:
    found: list[Row] = []
    for kind in ("logical_anomalies", "structural_anomalies"):
        truth = f"screw_bag/ground_truth/{kind}/000"
        mask(root / truth / "000.png", 254)
        mask(root / truth / "001.png", 1)
        found.append((f"screw_bag/test/{kind}/000.png", 1, truth, "screw_bag", "test", kind))
    found.append(("screw_bag/validation/good/000.png", 0, None, "screw_bag", "validation", "good"))
    found.append(("screw_bag/test/good/000.png", 0, None, "screw_bag", "test", "good"))
    for path, *_ in found:
        picture(root / path)
    return found


def medical_by_image(root: Path) -> list[Row]:
    return fill(
        root,
        [
            ("headct/test/good/0.png", 0, None, "headct", "test", "good"),
            ("headct/test/defect/1.png", 1, None, "headct", "test", "defect"),
        ],
    )


def mvtec2(root: Path) -> list[Row]:
    public = "can/test_public"
    return fill(
        root,
        [
            ("can/train/good/000.png", 0, None, "can", "train", "good"),
            ("can/validation/good/000.png", 0, None, "can", "validation", "good"),
            (f"{public}/good/000.png", 0, None, "can", "test", "good"),
            (f"{public}/bad/000.png", 1, f"{public}/ground_truth/bad/000_mask.png", "can", "test", "bad"),
            ("can/test_private/000.png", None, None, "can", "test_private", ""),
            ("can/test_private_mixed/000.png", None, None, "can", "test_private_mixed", ""),
        ],
    )


# ---------------------------------------------------------------- sets with a list
def visa(root: Path) -> list[Row]:
    folder = "pcb1/Data"
    rows: list[Row] = [
        (f"{folder}/Images/Normal/000.JPG", 0, None, "pcb1", "train", "good"),
        (f"{folder}/Images/Normal/001.JPG", 0, None, "pcb1", "test", "good"),
        (f"{folder}/Images/Anomaly/000.JPG", 1, f"{folder}/Masks/Anomaly/000.png", "pcb1", "test", "anomaly"),
    ]
    lines = [f"{c},{split},{'anomaly' if label else 'normal'},{path},{truth or ''}" for path, label, truth, c, split, _ in rows]
    write(root / "split_csv" / "1cls.csv", "\n".join(["object,split,label,image,mask", *lines]))
    write(root / "split_csv" / "2cls_fewshot.csv", "\n".join(["object,split,label,image,mask", lines[1]]))
    fill(root, rows)
    mask(root / folder / "Masks/Anomaly/000.png", 3)  # the number of a class, not 255
    return rows


def as_meta(rows: Sequence[Row], capital: bool = False) -> str:
    table: dict[str, dict[str, list[dict[str, object]]]] = {}
    for path, label, truth, category, split, kind in rows:
        item = {"img_path": path, "mask_path": truth or "", "cls_name": category, "specie_name": kind, "anomaly": label}
        key = split.capitalize() if capital else split
        table.setdefault(key, {}).setdefault(category, []).append(item)
    return json.dumps(table)


def meta(root: Path) -> list[Row]:
    rows = sorted(mvtec(root), key=lambda row: row[4] != "train")
    write(root / "meta.json", as_meta(rows))
    return rows


def meta_of_dagm(root: Path) -> list[Row]:
    rows: list[Row] = [
        ("Class1/Test/1.PNG", 0, None, "Class1", "test", "good"),
        ("a/2.PNG", 1, "b/2.PNG", "Class1", "test", "x"),
    ]
    write(root / "meta.json", as_meta(rows, capital=True))
    return fill(root, rows)


MANIFEST_ROWS: list[Row] = [
    ("some/a.png", 0, None, "gasket", "train", "good"),
    ("some/b.png", 1, "other/b.tif", "gasket", "test", "nick"),
    ("some/c.png", None, None, "seal", "test", ""),
]


def manifest_csv(root: Path) -> list[Row]:
    lines = [f"{p};{'' if y is None else y};{m or ''};{c};{s};{k}" for p, y, m, c, s, k in MANIFEST_ROWS]
    write(root / "manifest.csv", "\ufeff" + "\n".join(["path; label; mask; category; split; kind", *lines]))
    return fill(root, MANIFEST_ROWS)


def manifest_jsonl(root: Path) -> list[Row]:
    keys = ("path", "label", "mask", "category", "split", "kind")
    write(root / "manifest.jsonl", "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in MANIFEST_ROWS))
    return fill(root, MANIFEST_ROWS)


def real_iad(root: Path) -> list[Row]:
    folder, ok = "realiad_1024/audiojack", "OK/S0001/audiojack_0001_OK_C1_2023.jpg"
    ng = "NG/BX/S0002/audiojack_0002_BX_C5_2023"
    lists = {
        "meta": {"prefix": "audiojack/", "normal_class": "OK"},
        "train": [{"image_path": ok, "anomaly_class": "OK", "mask_path": None}],
        "test": [{"image_path": f"{ng}.jpg", "anomaly_class": "BX", "mask_path": f"{ng}.png"}],
    }
    write(root / "realiad_jsons" / "realiad_jsons" / "audiojack.json", json.dumps(lists))
    write(root / "realiad_jsons" / "realiad_jsons_sv" / "audiojack.json", json.dumps(lists | {"train": []}))
    return fill(
        root,
        [
            (f"{folder}/{ok}", 0, None, "audiojack", "train", "OK"),
            (f"{folder}/{ng}.jpg", 1, f"{folder}/{ng}.png", "audiojack", "test", "BX"),
        ],
    )


def head_ct(root: Path) -> list[Row]:
    write(root / "labels.csv", "id, hemorrhage\n0,1\n12,0\n")
    return fill(
        root,
        [
            ("head_ct/head_ct/000.png", 1, None, "head_ct", "test", "hemorrhage"),
            ("head_ct/head_ct/012.png", 0, None, "head_ct", "test", "good"),
        ],
    )


def elpv(root: Path) -> list[Row]:
    write(root / "labels.csv", "images/cell1.png  1.0   mono\nimages/cell2.png  0.0   poly\nimages/cell3.png  0.333 poly\n")
    return fill(
        root,
        [
            ("images/cell1.png", 1, None, "mono", "test", "defective"),
            ("images/cell2.png", 0, None, "poly", "test", "good"),
            ("images/cell3.png", 1, None, "poly", "test", "doubtful"),
        ],
    )


# ---------------------------------------------------------------- industrial sets in layouts of their own
def dagm(root: Path) -> list[Row]:
    rows: list[Row] = []
    for name in ("Class2", "Class10"):
        for phase in ("Test", "Train"):
            truth = f"{name}/{phase}/Label/0002_label.PNG"
            rows.append((f"{name}/{phase}/0001.PNG", 0, None, name, phase.lower(), "good"))
            rows.append((f"{name}/{phase}/0002.PNG", 1, truth, name, phase.lower(), "defect"))
            write(root / name / phase / "Label" / "Labels.txt", "1")
    return fill(root, rows)


def ksdd(root: Path) -> list[Row]:
    for number, value in ((0, 0), (1, 255)):
        picture(root / "kos01" / f"Part{number}.jpg")
        mask(root / "kos01" / f"Part{number}_label.bmp", value)
    return [
        ("kos01/Part0.jpg", 0, None, root.name, "test", "good"),
        ("kos01/Part1.jpg", 1, "kos01/Part1_label.bmp", root.name, "test", "defect"),
    ]


def ksdd2(root: Path) -> list[Row]:
    rows: list[Row] = []
    for split in ("test", "train"):
        for number, value in ((10000, 0), (10001, 255)):
            picture(root / split / f"{number}.png")
            mask(root / split / f"{number}_GT.png", value)
        rows.append((f"{split}/10000.png", 0, None, root.name, split, "good"))
        rows.append((f"{split}/10001.png", 1, f"{split}/10001_GT.png", root.name, split, "defect"))
    return rows


def mtd(root: Path) -> list[Row]:
    mask(root / "MT_Free" / "Imgs" / "exp1.png", 0)
    return fill(
        root,
        [
            ("MT_Crack/Imgs/exp1.jpg", 1, "MT_Crack/Imgs/exp1.png", root.name, "test", "crack"),
            ("MT_Free/Imgs/exp1.jpg", 0, None, root.name, "test", "good"),
        ],
    )


# ---------------------------------------------------------------- plain folders and medical sets
def good_bad(root: Path) -> list[Row]:
    return fill(
        root,
        [
            ("bad/b1.jpg", 1, "masks/b1.png", root.name, "test", "bad"),
            ("good/g1.jpg", 0, None, root.name, "test", "good"),
            ("scratch/s1.jpg", 1, "masks/scratch/s1_mask.png", root.name, "test", "scratch"),
        ],
    )


def good_bad_by_category(root: Path) -> list[Row]:
    return fill(
        root, [(f"{c}/{k}/1.png", int(k == "bad"), None, c, "test", k) for c in ("cap", "lid") for k in ("bad", "good")]
    )


def covid(root: Path) -> list[Row]:
    return fill(root, [(f"{k}/{k}-1.png", int(k != "NORMAL"), None, root.name, "test", k) for k in ("COVID", "NORMAL")])


def endotect(root: Path) -> list[Row]:
    return fill(
        root,
        [
            ("good/a.jpg", 0, None, root.name, "test", "good"),
            ("images/b.jpg", 1, "masks/b.jpg", root.name, "test", "images"),
        ],
    )


def yes_no(root: Path) -> list[Row]:
    picture(root / "pred" / "p.jpg")
    return fill(root, [(f"{k}/{k}1.jpg", int(k == "yes"), None, root.name, "test", k) for k in ("no", "yes")])


def brain_mri(root: Path) -> list[Row]:
    name = "brain_tumor_dataset"
    return fill(root, [(f"{name}/{k}/1.jpg", int(k == "yes"), None, name, "test", k) for k in ("no", "yes")])


def pairs(root: Path) -> list[Row]:
    picture(root / "images" / "z.jpg")
    mask(root / "masks" / "z.png", 0)
    rows: list[Row] = [("images/a.jpg", 1, "masks/a.png", root.name, "test", "defect")]
    return [*fill(root, rows), ("images/z.jpg", 0, None, root.name, "test", "good")]


def tn3k(root: Path) -> list[Row]:
    names = (("test-image", "test-mask", "test"), ("trainval-image", "trainval-mask", "train"))
    return fill(root, [(f"{a}/0.jpg", 1, f"{b}/0.jpg", root.name, split, "defect") for a, b, split in names])


def isic(root: Path) -> list[Row]:
    stem, name = "ISBI2016_ISIC_Part1_Test", "ISIC_0000003"
    rows: list[Row] = [
        (f"{stem}_Data/{name}.jpg", 1, f"{stem}_GroundTruth/{name}_Segmentation.png", root.name, "test", "defect")
    ]
    return fill(root, rows)


def isic_of_crane(root: Path) -> list[Row]:
    truth = "skin/ground_truth/ISIC_3_Segmentation.png"
    return fill(root, [("skin/test/ISIC_3.jpg", 1, truth, "skin", "test", "defect")])


def flat(root: Path) -> list[Row]:
    return fill(root, [(f"{n}.png", None, None, root.name, "test", "") for n in "ab"])


def beside(root: Path) -> list[Row]:
    picture(root / "z.jpg")
    mask(root / "z_mask.png", 0)
    rows: list[Row] = [("a.jpg", 1, "a_mask.png", root.name, "test", "defect")]
    return [*fill(root, rows), ("z.jpg", 0, None, root.name, "test", "good")]


def beside_by_ending(root: Path) -> list[Row]:
    return fill(root, [(f"{n}.jpg", 1, f"{n}.png", root.name, "test", "defect") for n in "ab"])


TREES: dict[str, tuple[str, Callable[[Path], list[Row]]]] = {
    "mvtec": ("mvtec", mvtec),
    "one_category": ("mvtec", one_category),
    "btad": ("mvtec", btad),
    "loco": ("mvtec", loco),
    "medical_by_image": ("mvtec", medical_by_image),
    "mvtec2": ("mvtec2", mvtec2),
    "visa": ("visa", visa),
    "meta": ("meta", meta),
    "meta_of_dagm": ("meta", meta_of_dagm),
    "manifest_csv": ("manifest", manifest_csv),
    "manifest_jsonl": ("manifest", manifest_jsonl),
    "real_iad": ("real_iad", real_iad),
    "head_ct": ("head_ct", head_ct),
    "elpv": ("elpv", elpv),
    "dagm": ("dagm", dagm),
    "ksdd": ("ksdd", ksdd),
    "ksdd2": ("ksdd2", ksdd2),
    "mtd": ("mtd", mtd),
    "good_bad": ("good_bad", good_bad),
    "good_bad_by_category": ("good_bad", good_bad_by_category),
    "covid": ("good_bad", covid),
    "endotect": ("good_bad", endotect),
    "yes_no": ("yes_no", yes_no),
    "brain_mri": ("yes_no", brain_mri),
    "pairs": ("pairs", pairs),
    "tn3k": ("pairs", tn3k),
    "isic": ("pairs", isic),
    "isic_of_crane": ("pairs", isic_of_crane),
    "beside": ("beside", beside),
    "beside_by_ending": ("beside", beside_by_ending),
    "flat": ("flat", flat),
}
