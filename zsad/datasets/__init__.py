"""Data sets with labels, for measuring and training: one small reader per layout, one ``Dataset``. Nothing is downloaded.

``open_dataset(path)`` recognises the layout; ``LAYOUTS`` is the table of those that are known.
"""

from zsad.datasets.dataset import Count, Dataset, Sample
from zsad.datasets.elpv import KINDS, Cell, read_elpv
from zsad.datasets.masks import load_mask, resize_mask
from zsad.datasets.names import prompt_name
from zsad.datasets.opening import LAYOUTS, open_dataset

__all__ = [
    "KINDS",
    "LAYOUTS",
    "Cell",
    "Count",
    "Dataset",
    "Sample",
    "load_mask",
    "open_dataset",
    "prompt_name",
    "read_elpv",
    "resize_mask",
]
