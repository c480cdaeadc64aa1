"""A Bayesian linear model of the reward, with an effect of each cluster, from sums alone.

    reward of x = intercept + w . phi(x) + u[cluster of x] + noise

Weights of one group of columns have one prior precision, cluster effects another; they and the noise maximise the
evidence (MacKay's fixed point, with a weak gamma hyperprior so that they stay finite). With no columns this is a bandit
of normal arms. The cluster block of the posterior precision is diagonal and is eliminated first, so that thousands of
clusters cost no more than their sums.

Invariant: sums are added round by round, in float64, and never recomputed: a round costs its own draws.
"""

# scipy is typed only in part.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve  # pyright: ignore[reportMissingTypeStubs]

from clusterucb.search.arms import Labels, Real
from clusterucb.types import FloatArray, IntArray

ITERATIONS = 100
TOLERANCE = 1e-2
"""Largest relative change of a precision at which the iteration stops."""
FLAT = 1e-6
"""Prior precision of the intercept, in units of the rewards' variance."""
WEIGHT_SHAPE = 0.01
NOISE_SHAPE = 0.5
"""Shapes of the gamma hyperpriors: how many draws they are worth, halved."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over all observed samples of phi (C columns and a one), reward and cluster (K)."""

    gram_CC: Real
    reward_C: Real
    square: float
    count_K: Real
    phi_KC: Real
    reward_K: Real

    @classmethod
    def empty(cls, columns: int, clusters: int) -> "Moments":
        """Start with no observation."""
        width = columns + 1
        zeros_K, zeros_KC = np.zeros(clusters), np.zeros((clusters, width))
        return cls(np.zeros((width, width)), np.zeros(width), 0.0, zeros_K, zeros_KC, zeros_K)

    def add(self, phi_BC: FloatArray, labels_B: Labels, rewards_B: Real) -> "Moments":
        """Return the sums with B more observations."""
        columns_BC: Real = np.concatenate((phi_BC.astype(np.float64), np.ones((len(phi_BC), 1))), axis=1)
        phi_KC, clusters = self.phi_KC.copy(), len(self.count_K)
        np.add.at(phi_KC, labels_B, columns_BC)
        return Moments(
            gram_CC=self.gram_CC + columns_BC.T @ columns_BC,
            reward_C=self.reward_C + columns_BC.T @ rewards_B,
            square=self.square + float(rewards_B @ rewards_B),
            count_K=self.count_K + np.bincount(labels_B, minlength=clusters),
            phi_KC=phi_KC,
            reward_K=self.reward_K + np.bincount(labels_B, weights=rewards_B, minlength=clusters),
        )

    def sharing(self, drawn: "Moments", phi_BC: FloatArray, labels_B: Labels, rewards_B: Real) -> "Moments":
        """Return the sums with the B observations that `drawn` counts already, seen by another target's rewards."""
        columns_BC: Real = np.concatenate((phi_BC.astype(np.float64), np.ones((len(phi_BC), 1))), axis=1)
        return replace(
            drawn,
            reward_C=self.reward_C + columns_BC.T @ rewards_B,
            square=self.square + float(rewards_B @ rewards_B),
            reward_K=self.reward_K + np.bincount(labels_B, weights=rewards_B, minlength=len(self.count_K)),
        )

    @property
    def count(self) -> float:
        """Observations so far."""
        return float(self.gram_CC[-1, -1])

    @property
    def mean(self) -> float:
        """Mean reward."""
        return float(self.reward_C[-1] / self.count)

    @property
    def deviation(self) -> float:
        """Population deviation of the rewards; 1 where they do not differ."""
        variance = self.square / self.count - self.mean**2
        return float(np.sqrt(variance)) if variance > 1e-14 * (self.square / self.count) else 1.0

    def standardised(self) -> "Moments":
        """Return the sums for rewards shifted to mean 0 and scaled to variance 1."""
        mean, deviation = self.mean, self.deviation
        return replace(
            self,
            reward_C=(self.reward_C - mean * self.gram_CC[-1]) / deviation,
            reward_K=(self.reward_K - mean * self.count_K) / deviation,
            square=max((self.square - self.count * mean**2) / deviation**2, 0.0),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What the observations say of every sample. All numbers are in units of the rewards."""

    weight_C: Real
    """Of the columns and the intercept."""
    effect_K: Real
    factor_CC: Real
    """Lower Cholesky factor of the weights' posterior covariance."""
    shift_KC: Real
    """What an observed cluster takes off phi: its share of what the cluster's effect explains already."""
    effect_variance_K: Real
    """Variance of a cluster's effect were the weights known."""
    noise: float
    """Deviation of rewards that nothing known explains."""
    precision_G: Real
    """Prior precisions of the groups, then of the clusters, for standardised rewards."""

    def predict(self, phi_BC: FloatArray, labels_B: Labels) -> tuple[Real, Real]:
        """Return mean and deviation of the rewards of B samples not yet observed, noise included."""
        columns = phi_BC.shape[1]
        mean_B = phi_BC @ self.weight_C[:columns].astype(np.float32) + (self.weight_C[-1] + self.effect_K)[labels_B]
        factor_CC = self.factor_CC.astype(np.float32)
        offset_KC = factor_CC[-1] - (self.shift_KC @ self.factor_CC).astype(np.float32)
        spread_BC = phi_BC @ factor_CC[:columns]
        spread_BC += offset_KC[labels_B]
        variance_B = np.einsum("bc,bc->b", spread_BC, spread_BC) + self.effect_variance_K[labels_B] + self.noise**2
        return mean_B.astype(np.float64), np.sqrt(variance_B.astype(np.float64))


def fit(moments: Moments, groups_C: IntArray) -> Posterior:
    """Return the posterior at the evidence's maximum; `groups_C` names each column's group (the intercept has none)."""
    sums, deviation = moments.standardised(), moments.deviation
    num_groups, clusters = int(groups_C.max(initial=-1)) + 1, len(sums.count_K)
    sizes_G = np.append(np.bincount(groups_C, minlength=num_groups), clusters).astype(np.float64)
    start_G = np.append(sizes_G[:-1], 1.0)  # each group explains as much as there is to explain
    precision_G, noise_precision, noise_start = start_G, 2.0, 2.0
    for _ in range(ITERATIONS):
        solved = _solve(sums, groups_C, precision_G, noise_precision)
        diagonal_C = np.diagonal(solved.covariance_CC)[:-1]
        spread_G = np.append(np.bincount(groups_C, diagonal_C, num_groups), solved.effect_variance_K.sum())
        squares_G = np.append(
            np.bincount(groups_C, solved.weight_C[:-1] ** 2, num_groups), float(solved.effect_K @ solved.effect_K)
        )
        known_G = sizes_G - precision_G * spread_G
        next_G = (known_G + 2 * WEIGHT_SHAPE) / (squares_G + 2 * WEIGHT_SHAPE / start_G)
        freedom = max(sums.count - 1.0 - float(known_G.sum()), 0.0)
        next_noise = (freedom + 2 * NOISE_SHAPE) / (solved.residual + 2 * NOISE_SHAPE / noise_start)
        change = max(float(np.abs(next_G / precision_G - 1).max()), abs(next_noise / noise_precision - 1))
        precision_G, noise_precision = next_G, next_noise
        if change < TOLERANCE:
            break
    solved = _solve(sums, groups_C, precision_G, noise_precision)
    weight_C = solved.weight_C * deviation
    weight_C[-1] += moments.mean
    return Posterior(
        weight_C=weight_C,
        effect_K=solved.effect_K * deviation,
        factor_CC=np.linalg.cholesky(solved.covariance_CC).astype(np.float64) * deviation,
        shift_KC=solved.shift_KC,
        effect_variance_K=solved.own_variance_K * deviation**2,
        noise=float(noise_precision**-0.5 * deviation),
        precision_G=precision_G,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Solved:
    weight_C: Real
    effect_K: Real
    covariance_CC: Real
    shift_KC: Real
    own_variance_K: Real
    effect_variance_K: Real
    """Marginal variance of the cluster effects."""
    residual: float
    """Sum of squared residuals."""


def _solve(sums: Moments, groups_C: IntArray, precision_G: Real, noise_precision: float) -> _Solved:
    """Return posterior mean and covariance for given precisions, the cluster effects eliminated."""
    own_K = 1.0 / (precision_G[-1] + noise_precision * sums.count_K)
    shift_KC = noise_precision * own_K[:, None] * sums.phi_KC
    prior_C = np.append(precision_G[:-1][groups_C], FLAT)
    precision_CC = np.diag(prior_C) + noise_precision * (sums.gram_CC - sums.phi_KC.T @ shift_KC)
    right_C = noise_precision * (sums.reward_C - shift_KC.T @ sums.reward_K)
    factor = cho_factor(precision_CC, lower=True)
    covariance_CC: Real = cho_solve(factor, np.eye(len(prior_C)))
    covariance_CC = (covariance_CC + covariance_CC.T) / 2
    weight_C: Real = cho_solve(factor, right_C)
    effect_K = noise_precision * own_K * (sums.reward_K - sums.phi_KC @ weight_C)
    fitted = float(weight_C @ sums.gram_CC @ weight_C + sums.count_K @ effect_K**2)
    crossed = float(effect_K @ (sums.phi_KC @ weight_C))
    explained = float(weight_C @ sums.reward_C + effect_K @ sums.reward_K)
    return _Solved(
        weight_C=weight_C,
        effect_K=effect_K,
        covariance_CC=covariance_CC,
        shift_KC=shift_KC,
        own_variance_K=own_K,
        effect_variance_K=own_K + np.einsum("kc,cd,kd->k", shift_KC, covariance_CC, shift_KC, optimize=True),
        residual=max(sums.square - 2 * explained + fitted + 2 * crossed, 0.0),
    )
