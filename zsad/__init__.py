"""zsad: vision-language zero-shot visual anomaly detection.

import zsad
inspector = zsad.Inspector(target="metal nut")
for result in inspector("photos/"):
    print(result.path, result.pred_score, result.pred_label)
"""

from zsad import backbones as _backbones  # noqa: F401  (registers the backbones)
from zsad import methods as _methods  # noqa: F401  (registers the methods)
from zsad.calibration import Thresholds
from zsad.detector import Detector
from zsad.errors import ZsadError
from zsad.evaluation import evaluate
from zsad.evaluation.figures import Evaluation
from zsad.inspector import Inspector
from zsad.listing import listings
from zsad.promises import Calibration
from zsad.prompt_lab import PromptEffect, compare_prompts, prompt_effects
from zsad.registry import create, list_backbones, list_methods, load_backbone
from zsad.results import Region, Result
from zsad.session import Session
from zsad.sharing import from_pretrained
from zsad.training import train
from zsad.types import Context, ImageFeatures, Prediction, References

__version__ = "0.1.0"

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
    "from_pretrained",
    "list_backbones",
    "list_methods",
    "listings",
    "load_backbone",
    "prompt_effects",
    "train",
]
