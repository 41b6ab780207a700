"""Small data sets as annotation tools export them, with the rows that their reader should find.

Each has pictures of 8 x 6 pixels and, in every format, the same area: columns 2 to 4 of rows 1 and 2, as ``AREA``.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from trees import HEIGHT, WIDTH, Row, mask, picture, write

from zsad.datasets import Dataset

AREA = np.zeros((HEIGHT, WIDTH), bool)
AREA[1:3, 2:5] = True
LEFT, TOP, RIGHT, BOTTOM = 2, 1, 5, 3
CORNERS = [(LEFT, TOP), (RIGHT, TOP), (RIGHT, BOTTOM - 1), (RIGHT, BOTTOM), (LEFT, BOTTOM)]  # five: no box
FLAT_CORNERS = [float(value) for corner in CORNERS for value in corner]
COLUMN_RUNS = [13, 2, 4, 2, 4, 2, 21]  # of AREA, down the columns
COCO_STRING = "=24000a0"  # pycocotools' string of COLUMN_RUNS


def row(root: Path, path: str, truth: str | None, split: str = "test", kind: str = "") -> Row:
    """Makes the picture of a row; one without a kind is normal, others are white in ``AREA``."""
    picture(root / path)
    if kind:
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        pixels[AREA] = 255
        Image.fromarray(pixels).save(root / path)
    return path, int(bool(kind)), truth, root.name, split, kind or "good"


def has_problem(data: Dataset, *parts: str) -> bool:
    """Whether exactly one problem has all these parts."""
    return sum(all(part in line for part in parts) for line in data.problems) == 1


# ---------------------------------------------------------------- COCO
def coco_table(names: list[str], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """A COCO file; pictures get the ids 1, 2 ..."""
    return {
        "info": {"description": "", "year": 2024},
        "licenses": [{"id": 0, "name": "", "url": ""}],
        "categories": [{"id": 1, "name": "scratch", "supercategory": ""}, {"id": 2, "name": "dent", "supercategory": ""}],
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, 1)],
        "annotations": [{"id": i, "iscrowd": 0, **one} for i, one in enumerate(annotations, 1)],
    }


def coco_mark(image: int, segmentation: Any, category: int = 1, **others: Any) -> dict[str, Any]:
    box = [LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP]
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "bbox": box, "area": 6.0, **others}


def coco(root: Path) -> list[Row]:
    """As CVAT exports it: annotations/instances_default.json and images/."""
    runs = {"size": [HEIGHT, WIDTH], "counts": COLUMN_RUNS}
    text = {"size": [HEIGHT, WIDTH], "counts": COCO_STRING}
    marks = [coco_mark(1, [FLAT_CORNERS]), coco_mark(2, runs, 2, iscrowd=1), coco_mark(3, text), coco_mark(4, [])]
    table = coco_table(["a.png", "b.png", "c.png", "d.png", "sub/e.png"], marks)
    write(root / "annotations" / "instances_default.json", json.dumps(table))
    return [
        row(root, "images/a.png", "areas", kind="scratch"),
        row(root, "images/b.png", "areas", kind="dent"),
        row(root, "images/c.png", "areas", kind="scratch"),
        row(root, "images/d.png", "boxes", kind="scratch"),
        row(root, "images/sub/e.png", None),
    ]


def roboflow_coco(root: Path) -> list[Row]:
    rows: list[Row] = []
    for folder, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        names = [f"{folder}_png.rf.0a1b.jpg", f"{folder}_normal.jpg"]
        write(root / folder / "_annotations.coco.json", json.dumps(coco_table(names, [coco_mark(1, [])])))
        rows.append(row(root, f"{folder}/{names[0]}", "boxes", split, "scratch"))
        rows.append(row(root, f"{folder}/{names[1]}", None, split))
    return rows


# ---------------------------------------------------------------- YOLO
YOLO_BOX = f"{3.5 / WIDTH} {2 / HEIGHT} {3 / WIDTH} {2 / HEIGHT}"
YOLO_SEGMENT = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in CORNERS)


def yolo(root: Path) -> list[Row]:
    """As Ultralytics documents it."""
    lines = ["path: ../datasets/the_set  # root", "train: images/train", "val: images/val", "test:", "  - images/test", ""]
    write(root / "data.yaml", "\n".join([*lines, "names:", "  0: scratch", "  1: 'deep dent'", ""]))
    write(root / "labels/train/a.txt", f"0 {YOLO_BOX}\n")
    write(root / "labels/test/a.txt", f"1 {YOLO_SEGMENT}\n")
    write(root / "labels/test/b.txt", f"1 {YOLO_SEGMENT}\n0 {YOLO_BOX}\n")
    write(root / "labels/test/c.txt", "")
    write(root / "labels/val/a.txt", "")
    return [
        row(root, "images/train/a.png", "boxes", "train", "scratch"),
        row(root, "images/val/a.png", None, "validation"),
        row(root, "images/test/a.png", "areas", kind="deep dent"),
        row(root, "images/test/b.png", "boxes", kind="deep dent+scratch"),
        row(root, "images/test/c.png", None),
        row(root, "images/test/d.png", None),
    ]


def roboflow_yolo(root: Path) -> list[Row]:
    rows: list[Row] = []
    lines = [
        "train: ../train/images",
        "val: ../valid/images",
        "test: ../test/images",
        "",
        "nc: 2",
        "names: ['scratch', 'dent']",
    ]
    write(root / "data.yaml", "\n".join([*lines, "", "roboflow:", "  workspace: w", "  version: 1"]))
    write(root / "README.roboflow.txt", "exported")
    for folder, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        write(root / folder / "labels" / "a_png.rf.0a.txt", f"1 {YOLO_BOX}")
        write(root / folder / "labels" / "b.txt", "")
        rows.append(row(root, f"{folder}/images/a_png.rf.0a.jpg", "boxes", split, "dent"))
        rows.append(row(root, f"{folder}/images/b.jpg", None, split))
    return rows


def cvat_yolo(root: Path) -> list[Row]:
    """YOLO 1.1 of CVAT, which is darknet's."""
    write(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "obj.names", "scratch\n")
    write(root / "train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    write(root / "obj_train_data" / "a.txt", f"0 {YOLO_BOX}\n")
    write(root / "obj_train_data" / "b.txt", "")
    write(root / "obj_train_data" / "c.txt", "")
    write(root / "test.txt", "data/obj_train_data/c.png\n")
    with (root / "obj.data").open("a") as file:
        file.write("test = data/test.txt\n")
    return [
        row(root, "obj_train_data/a.png", "boxes", "train", "scratch"),
        row(root, "obj_train_data/b.png", None, "train"),
        row(root, "obj_train_data/c.png", None),
    ]


def label_studio_yolo(root: Path) -> list[Row]:
    write(root / "classes.txt", "dent\nscratch\n")
    write(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "dent"}], "info": {"version": "1.0"}}))
    write(root / "labels" / "0a1b2c3d-a.txt", f"1 {YOLO_BOX}\n")
    write(root / "labels" / "0a1b2c3d-b.txt", "")
    return [row(root, "images/0a1b2c3d-a.png", "boxes", kind="scratch"), row(root, "images/0a1b2c3d-b.png", None)]


# ---------------------------------------------------------------- Pascal VOC
VOC_BOX = f"<bndbox><xmin>{LEFT + 1}</xmin><ymin>{TOP + 1}</ymin><xmax>{RIGHT}</xmax><ymax>{BOTTOM}</ymax></bndbox>"


def voc_xml(name: str, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """The file of one picture; each object is what follows its name "dent"."""
    start = f"<annotation><folder>images</folder><filename>{name}</filename><path>/home/somebody/{name}</path>"
    start += f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size><segmented>0</segmented>"
    parts = (f"<object><name>dent</name><pose>Unspecified</pose><difficult>0</difficult>{one}</object>" for one in objects)
    return f"{start}{''.join(parts)}</annotation>"


def voc(root: Path) -> list[Row]:
    """As CVAT exports it."""
    polygon = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(CORNERS, 1))
    write(root / "Annotations" / "a.xml", voc_xml("a.png", VOC_BOX))
    write(root / "Annotations" / "b.xml", voc_xml("b.png", VOC_BOX))
    write(root / "Annotations" / "c.xml", voc_xml("c.png", f"{VOC_BOX}<polygon>{polygon}</polygon>"))
    write(root / "Annotations" / "d.xml", voc_xml("d.png"))
    write(root / "ImageSets" / "Main" / "train.txt", "d\n")
    write(root / "ImageSets" / "Main" / "dent_train.txt", "a 1\nd -1\n")
    write(root / "ImageSets" / "Main" / "test.txt", "a\nb\nc")
    mask(root / "SegmentationClass" / "b.png")
    return [
        row(root, "JPEGImages/a.png", "boxes", kind="dent"),
        row(root, "JPEGImages/b.png", "SegmentationClass/b.png", kind="dent"),
        row(root, "JPEGImages/c.png", "areas", kind="dent"),
        row(root, "JPEGImages/d.png", None, "train"),
    ]


def roboflow_voc(root: Path) -> list[Row]:
    rows: list[Row] = []
    for folder, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        write(root / folder / "a_png.rf.0a.xml", voc_xml("a_png.rf.0a.jpg", VOC_BOX))
        write(root / folder / "b.xml", voc_xml("b.jpg"))
        rows.append(row(root, f"{folder}/a_png.rf.0a.jpg", "boxes", split, "dent"))
        rows.append(row(root, f"{folder}/b.jpg", None, split))
    return rows


# ---------------------------------------------------------------- LabelMe
def labelme_file(name: str, *shapes: tuple[str, list[Any]], **others: Any) -> str:
    """A file of LabelMe: each shape is (type, points), its label "dent"."""
    rows = [
        {"label": "dent", "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None}
        for kind, points in shapes
    ]
    table = {"version": "5.5.0", "flags": {}, "shapes": rows, "imagePath": name, "imageData": "iVBORw0KGgo="}
    return json.dumps(table | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | others, indent=2)


def png_of(mask: np.ndarray) -> str:
    """A mask as LabelMe keeps it: a PNG of 0 and 1 as base64."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def labelme(root: Path) -> list[Row]:
    corners = [list(one) for one in CORNERS]
    ends = [[LEFT, TOP], [RIGHT - 1, BOTTOM - 1]]
    shape = {"label": "dent", "points": ends, "shape_type": "mask", "mask": png_of(AREA[TOP:BOTTOM, LEFT:RIGHT])}
    write(root / "photos" / "a.json", labelme_file("a.jpg", ("polygon", corners)))
    write(root / "photos" / "b.json", labelme_file("b.jpg", ("rectangle", [[RIGHT, BOTTOM], [LEFT, TOP]])))
    write(root / "photos" / "c.json", labelme_file("c.jpg", shapes=[shape]))
    write(root / "photos" / "d.json", labelme_file("..\\photos\\d.jpg"))
    return [
        row(root, "photos/a.jpg", "areas", kind="dent"),
        row(root, "photos/b.jpg", "boxes", kind="dent"),
        row(root, "photos/c.jpg", "areas", kind="dent"),
        row(root, "photos/d.jpg", None),
    ]


# ---------------------------------------------------------------- CVAT
def cvat_xml(*images: tuple[str, str], attributes: str = "") -> str:
    """annotations.xml; each image is its name and what is inside."""
    rows = (
        f'<image id="{i}" name="{name}" {attributes} width="{WIDTH}" height="{HEIGHT}">{inside}</image>'
        for i, (name, inside) in enumerate(images)
    )
    labels = "<labels><label><name>dent</name><color>#ff0000</color><attributes></attributes></label></labels>"
    meta = f"<meta><task><id>1</id><mode>annotation</mode>{labels}</task><dumped>2024-05-01</dumped></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>{meta}{"".join(rows)}</annotations>\n'


CVAT_SHAPE = 'label="dent" source="manual" occluded="0" z_order="{}"'
CVAT_BOX = f'<box {CVAT_SHAPE.format(0)} xtl="{LEFT}.00" ytl="{TOP}.00" xbr="{RIGHT}.00" ybr="{BOTTOM}.00"></box>'


def cvat(root: Path) -> list[Row]:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in CORNERS)
    attribute = '<attribute name="depth">deep</attribute>'
    inside = f'<polygon {CVAT_SHAPE.format(2)} points="{points}">{attribute}</polygon>{CVAT_BOX}'
    mask_of_area = f'<mask {CVAT_SHAPE.format(0)} rle="3, 6" left="{LEFT}" top="{TOP - 1}" width="3" height="3"></mask>'
    turned = f'<box {CVAT_SHAPE.format(0)} xtl="2.5" ytl="0.5" xbr="4.5" ybr="3.5" rotation="90.0"></box>'
    images = [("a.png", inside), ("sub/b.png", mask_of_area), ("c.png", turned), ("d.png", "")]
    write(root / "annotations.xml", cvat_xml(*images))
    return [
        row(root, "images/a.png", "boxes", kind="dent"),
        row(root, "images/sub/b.png", "areas", kind="dent"),
        row(root, "images/c.png", "boxes", kind="dent"),
        row(root, "images/d.png", None),
    ]


# ---------------------------------------------------------------- Label Studio
def brush_bytes(alpha: np.ndarray) -> bytes:
    """Label Studio's stream with runs of one value, and the first two values one by one."""
    flat = np.repeat(alpha.ravel(), 4).astype(int) * 255
    bits = f"{len(flat):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += f"0{0:02b}{1:03b}" + f"{flat[0]:08b}{flat[1]:08b}"
    at = 2
    while at < len(flat):
        end = at + 1
        while end < len(flat) and flat[end] == flat[at]:
            end += 1
        bits += f"1{3:02b}{end - at - 1:016b}{flat[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def region(kind: str, names: list[str], /, **value: Any) -> dict[str, Any]:
    """A result of Label Studio."""
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    whole = {"id": f"{kind}-{sorted(value)}", "type": kind, "from_name": "label", "to_name": "image", "origin": "manual"}
    return whole | size | {"value": value | ({kind: names} if names else {})}


def task(number: int, image: str, *results: dict[str, Any], **others: Any) -> dict[str, Any]:
    annotation = {"id": 100 + number, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)}
    row = {"id": number, "annotations": [annotation], "file_upload": "", "drafts": [], "predictions": [], "meta": {}}
    return row | {"data": {"image": image}} | others


LS_BOX = {"x": 25.0, "y": 100 / 6, "width": 37.5, "height": 200 / 6, "rotation": 0}


def label_studio(root: Path) -> list[Row]:
    points = [[x * 100 / WIDTH, y * 100 / HEIGHT] for x, y in CORNERS]
    turned = {"x": 62.5, "y": 100 / 6, "width": 25.0, "height": 50.0, "rotation": 90}  # about its corner (5, 1)
    tasks = [
        task(1, "/data/upload/3/1a2b3c4d-a.png", region("rectanglelabels", ["dent"], **LS_BOX)),
        task(2, "/data/local-files/?d=project%2Fphotos%2Fmy%20b.png", region("polygonlabels", ["dent"], points=points)),
        task(3, "s3://bucket/c.png", region("brushlabels", ["dent"], format="rle", rle=list(brush_bytes(AREA)))),
        task(4, "http://localhost:8080/data/upload/3/1a2b3c4d-d.png", region("rectanglelabels", ["scratch"], **turned)),
        task(5, "/data/upload/3/1a2b3c4d-e.png"),
    ]
    write(root / "project-3-at-2024-05-01.json", json.dumps(tasks))
    return [
        row(root, "photos/a.png", "boxes", kind="dent"),
        row(root, "photos/my b.png", "areas", kind="dent"),
        row(root, "photos/c.png", "areas", kind="dent"),
        row(root, "photos/d.png", "boxes", kind="scratch"),
        row(root, "photos/e.png", None),
    ]


# ---------------------------------------------------------------- Hugging Face imagefolder, Datumaro
def imagefolder(root: Path) -> list[Row]:
    objects = {"bbox": [[LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP]], "categories": ["dent"], "id": [1]}
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "objects": objects},
        {"file_name": "photos/b.png", "objects": {"bbox": [], "categories": []}},
        {"file_name": "c.png", "label": "dent", "mask_file_name": "masks/c.png"},
        {"file_name": "d.png", "label": 0},
        {"file_name": "e.png", "caption": "a part"},
    ]
    write(root / "test" / "metadata.jsonl", "\n".join(json.dumps(one) for one in rows))
    write(root / "train" / "metadata.csv", "file_name,label\na.png,good\n")
    mask(root / "test" / "masks" / "c.png")
    path, _, truth, *others = row(root, "test/e.png", None)
    return [
        row(root, "test/a.png", "boxes", kind="dent"),
        row(root, "test/photos/b.png", None),
        row(root, "test/c.png", "test/masks/c.png", kind="dent"),
        row(root, "test/d.png", None),
        (path, None, truth, *others[:2], ""),
        row(root, "train/a.png", None, "train"),
    ]


def imagefolder_csv(root: Path) -> list[Row]:
    write(root / "metadata.csv", "file_name,label,split\na.png,1,test\nb.png,0,test\nc.png,0,train\n")
    return [row(root, "a.png", None, kind="defect"), row(root, "b.png", None), row(root, "c.png", None, "train")]


def datumaro_table(*items: tuple[str, list[dict[str, Any]]]) -> str:
    """A file of Datumaro; each item is its id and annotations."""
    labels = [{"name": "dent", "parent": "", "attributes": []}, {"name": "good", "parent": "", "attributes": []}]
    rows = [
        {"id": name, "annotations": marks, "image": {"path": f"{name}.png", "size": [HEIGHT, WIDTH]}, "attr": {"frame": 0}}
        for name, marks in items
    ]
    table = {"label": {"labels": labels, "attributes": []}}
    return json.dumps({"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": table, "items": rows})


def datumaro_mark(kind: str, /, **others: Any) -> dict[str, Any]:
    attributes = {"occluded": False, "rotation": 0.0}
    return {"id": 0, "type": kind, "attributes": attributes, "group": 0, "label_id": 0, "z_order": 0, **others}


def datumaro(root: Path) -> list[Row]:
    box = datumaro_mark("bbox", bbox=[LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP])
    polygon = datumaro_mark("polygon", points=FLAT_CORNERS)
    runs = datumaro_mark("mask", rle={"counts": COCO_STRING, "size": [HEIGHT, WIDTH]})
    turned = datumaro_mark("bbox", bbox=[2.5, 0.5, 2, 3], attributes={"rotation": 90.0})
    write(root / "annotations" / "train.json", datumaro_table(("e", [])))
    items = [("a", [box]), ("sub/b", [polygon]), ("c", [runs]), ("d", [turned])]
    write(root / "annotations" / "default.json", datumaro_table(*items))
    return [
        row(root, "images/default/a.png", "boxes", kind="dent"),
        row(root, "images/default/sub/b.png", "areas", kind="dent"),
        row(root, "images/default/c.png", "areas", kind="dent"),
        row(root, "images/default/d.png", "boxes", kind="dent"),
        row(root, "images/train/e.png", None, "train"),
    ]


ANNOTATED: dict[str, tuple[str, Callable[[Path], list[Row]]]] = {
    "coco": ("coco", coco),
    "roboflow_coco": ("coco", roboflow_coco),
    "yolo": ("yolo", yolo),
    "roboflow_yolo": ("yolo", roboflow_yolo),
    "cvat_yolo": ("yolo", cvat_yolo),
    "label_studio_yolo": ("yolo", label_studio_yolo),
    "voc": ("voc", voc),
    "roboflow_voc": ("voc", roboflow_voc),
    "labelme": ("labelme", labelme),
    "cvat": ("cvat", cvat),
    "label_studio": ("label_studio", label_studio),
    "imagefolder": ("imagefolder", imagefolder),
    "imagefolder_csv": ("imagefolder", imagefolder_csv),
    "datumaro": ("datumaro", datumaro),
}
# test/photos looks like a category of MVTec's layout, and pictures without folders like a flat one
OVER_FOLDERS = {"imagefolder", "imagefolder_csv"}
