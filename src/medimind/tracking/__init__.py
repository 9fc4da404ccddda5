"""Recording a run: trackers and provenance."""

from medimind.tracking.build import build_trackers
from medimind.tracking.console import ConsoleTracker
from medimind.tracking.jsonl import JsonlTracker, read_metrics
from medimind.tracking.multi import MultiTracker
from medimind.tracking.tensorboard import TensorboardTracker
from medimind.tracking.tracker import Scalar, Tracker
from medimind.tracking.wandb import WandbTracker

__all__ = [
    "ConsoleTracker",
    "JsonlTracker",
    "MultiTracker",
    "Scalar",
    "TensorboardTracker",
    "Tracker",
    "WandbTracker",
    "build_trackers",
    "read_metrics",
]
