"""How good a map is: pure functions of maps and truth."""

from vitscope.metrics.localization import THRESHOLDS, energy_in_mask, iou_curve

__all__ = ["THRESHOLDS", "energy_in_mask", "iou_curve"]
