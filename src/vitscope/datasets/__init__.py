"""Pictures with known truth."""

from vitscope.datasets.scenes import CLASSES, Individual, Instance, Knobs, Scene, Scenes, with_mark

__all__ = ["CLASSES", "Individual", "Instance", "Knobs", "Scene", "Scenes", "with_mark"]
