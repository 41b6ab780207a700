"""Readers of what annotation tools export: one module per format, all with the same samples.

A picture with an annotation is anomalous, and its kind is the annotation's name; a picture without one is normal. Polygons,
boxes and run-length encoded masks stay as they are until the mask is loaded (``zsad.datasets.shapes``).
"""

from zsad.datasets.annotations.coco import COCO
from zsad.datasets.annotations.cvat import CVAT
from zsad.datasets.annotations.datumaro import DATUMARO
from zsad.datasets.annotations.imagefolder import IMAGEFOLDER
from zsad.datasets.annotations.label_studio import LABEL_STUDIO
from zsad.datasets.annotations.labelme import LABELME
from zsad.datasets.annotations.voc import VOC
from zsad.datasets.annotations.yolo import YOLO

__all__ = ["ANNOTATIONS"]

ANNOTATIONS = (COCO, YOLO, VOC, LABELME, CVAT, LABEL_STUDIO, IMAGEFOLDER, DATUMARO)
"""The layouts, in the order in which they are tried."""
