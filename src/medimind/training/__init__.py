"""Training: the loop, its schedule and its checkpoints."""

from medimind.training.resume import resume_step
from medimind.training.run import TrainResult, planned_steps, train

__all__ = ["TrainResult", "planned_steps", "resume_step", "train"]
