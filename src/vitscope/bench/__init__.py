"""Benchmarks: methods on data sets with known truth, next to trivial baselines."""

from vitscope.bench.scenes import ClassSensitivity, Localization, class_sensitivity, localization
from vitscope.bench.statistics import Estimate

__all__ = ["ClassSensitivity", "Estimate", "Localization", "class_sensitivity", "localization"]
