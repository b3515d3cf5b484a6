"""Benchmarks: methods on data sets with known truth, next to trivial baselines."""

from vitscope.bench.scenes import ClassSensitivity, Localization, class_sensitivity, localization
from vitscope.bench.statistics import Estimate
from vitscope.bench.summary import Summary, summarise

__all__ = ["ClassSensitivity", "Estimate", "Localization", "Summary", "class_sensitivity", "localization", "summarise"]
