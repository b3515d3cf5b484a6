"""What is explained: a function of the model's output that gives one value an image."""

from vitscope.targets.bank import MemoryBank
from vitscope.targets.features import Concept, EachConcept, Neighbours
from vitscope.targets.names import ClassNames
from vitscope.targets.target import Class, Contrast, Custom, Output, Predicted, Probability, Target, as_target
from vitscope.targets.text import Text

__all__ = [
    "Class",
    "ClassNames",
    "Concept",
    "Contrast",
    "Custom",
    "EachConcept",
    "MemoryBank",
    "Neighbours",
    "Output",
    "Predicted",
    "Probability",
    "Target",
    "Text",
    "as_target",
]
