"""Benchmarks: methods on data sets with known truth, next to trivial baselines; and maps of folders of any size."""

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
