"""What models are trained to do: a task is a class, and a data set names its own."""

from .classification import Classification
from .task import Task

__all__ = ["Classification", "Task"]
