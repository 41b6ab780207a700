"""Models for other runtimes: a method with its target and references as one ONNX or OpenVINO graph, and how it runs here.

``export`` writes a folder: the model, ``metadata.json``, ``certificate.json`` (how far its outputs are from the method's) and
``run.py``, which needs neither zsad nor torch. ``Inspector("model/")`` and ``zsad predict --method model/`` take that folder.
"""

from zsad.exports.detector import Exported, open_export
from zsad.exports.making import export
from zsad.exports.metadata import is_folder
from zsad.exports.verifying import verify_export
from zsad.registry import register_folders

__all__ = ["export", "is_folder", "open_export", "verify_export"]

register_folders(is_folder, Exported, open_export)
