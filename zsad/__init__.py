"""zsad: vision-language zero-shot visual anomaly detection.

import zsad
inspector = zsad.Inspector(target="metal nut")
for result in inspector("photos/"):
    print(result.path, result.pred_score, result.pred_label)
"""

from zsad import backbones as _backbones  # noqa: F401  (registers the backbones)
from zsad import methods as _methods  # noqa: F401  (registers the methods)
from zsad.common.version import __version__ as __version__
from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import Thresholds
from zsad.detector import Detector
from zsad.errors import ZsadError
from zsad.evaluation import evaluate
from zsad.evaluation.metrics_table import Evaluation
from zsad.exports import export
from zsad.inference.inspector import Inspector
from zsad.inference.listing import listings
from zsad.inference.result import Region, Result
from zsad.registry import create, list_backbones, list_methods, load_backbone
from zsad.runs.prompt_effects import PromptEffect, compare_prompts, prompt_effects
from zsad.runs.session import Session
from zsad.training import train
from zsad.types import Context, ImageFeatures, Prediction, References
from zsad.weights.hub import from_pretrained

__all__ = [
    "Calibration",
    "Context",
    "Detector",
    "Evaluation",
    "ImageFeatures",
    "Inspector",
    "Prediction",
    "PromptEffect",
    "References",
    "Region",
    "Result",
    "Session",
    "Thresholds",
    "ZsadError",
    "compare_prompts",
    "create",
    "evaluate",
    "export",
    "from_pretrained",
    "list_backbones",
    "list_methods",
    "listings",
    "load_backbone",
    "prompt_effects",
    "train",
]
