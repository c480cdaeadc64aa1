"""Per-sample prediction of the reward: a Bayesian linear model, re-fitted every round, that contains the clusters."""

from clusterucb.search.predictive.known import Columns, Factor, Knowledge
from clusterucb.search.predictive.posterior import Moments, Posterior, fit
from clusterucb.search.predictive.working_set import WorkingSet

__all__ = ["Columns", "Factor", "Knowledge", "Moments", "Posterior", "WorkingSet", "fit"]
