"""Benchmarks: methods on data sets with known truth, next to trivial baselines; and maps of folders of any size."""

import warnings
from typing import Any

from vitscope.bench.maps import MapsWorker, store_maps
from vitscope.bench.maps_plan import MapsPlan, plan_maps
from vitscope.bench.on_ray import OnRay
from vitscope.bench.plan import Part, Plan, make_plan
from vitscope.bench.read import StoredMap, read_maps
from vitscope.bench.run import Outcome, bench, in_turn, manifest_of, run_parts
from vitscope.bench.scenes import Localization, TwoObjectMass, localization, two_object_mass
from vitscope.bench.statistics import Estimate
from vitscope.bench.store import Store
from vitscope.bench.summarise import summarise
from vitscope.bench.summary import Summary
from vitscope.bench.worker import Computed, Worker

__all__ = [
    "Computed",
    "Estimate",
    "Localization",
    "MapsPlan",
    "MapsWorker",
    "OnRay",
    "Outcome",
    "Part",
    "Plan",
    "Store",
    "StoredMap",
    "Summary",
    "TwoObjectMass",
    "Worker",
    "bench",
    "in_turn",
    "localization",
    "make_plan",
    "manifest_of",
    "plan_maps",
    "read_maps",
    "run_parts",
    "store_maps",
    "summarise",
    "two_object_mass",
]


_RENAMED: dict[str, Any] = {"ClassSensitivity": TwoObjectMass, "class_sensitivity": two_object_mass}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    now = _RENAMED[name]
    warnings.warn(f"vitscope.bench.{name} is called {now.__name__} now; write that", DeprecationWarning, stacklevel=2)
    return now
