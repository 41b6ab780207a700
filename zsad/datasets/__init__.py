"""Labelled data sets for evaluation and training: one reader per folder layout, one ``Dataset``. Nothing is downloaded.

``open_dataset(path)`` recognises the layout; ``LAYOUTS`` lists those that are known.
"""

from zsad.datasets.dataset import Count, Dataset, Sample
from zsad.datasets.elpv import KINDS, Cell, read_elpv
from zsad.datasets.masks import load_mask, resize_mask
from zsad.datasets.names import prompt_name
from zsad.datasets.opening import LAYOUTS, open_dataset
from zsad.datasets.shapes import Shapes

__all__ = [
    "KINDS",
    "LAYOUTS",
    "Cell",
    "Count",
    "Dataset",
    "Sample",
    "Shapes",
    "load_mask",
    "open_dataset",
    "prompt_name",
    "read_elpv",
    "resize_mask",
]
