"""The search: which samples are scored next, given what is known. Ask, tell, give back; no model, no clock, no I/O."""

from clusterucb.search.allocators import Allocator, Ranked, ThreshHard, ThreshNormal, Ucb1, UcbBeta, build_allocator
from clusterucb.search.arms import ArmStatistics
from clusterucb.search.ledger import Ledger
from clusterucb.search.search import Search
from clusterucb.search.threshold import TopShare

__all__ = [
    "Allocator",
    "ArmStatistics",
    "Ledger",
    "Ranked",
    "Search",
    "ThreshHard",
    "ThreshNormal",
    "TopShare",
    "Ucb1",
    "UcbBeta",
    "build_allocator",
]
