"""What is explained: a function of the model's output that gives one value an image."""

from vitscope.targets.bank import MemoryBank
from vitscope.targets.names import ClassNames
from vitscope.targets.target import Class, Custom, Predicted, Target, as_target

__all__ = ["Class", "ClassNames", "Custom", "MemoryBank", "Predicted", "Target", "as_target"]
