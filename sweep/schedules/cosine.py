"""Defines the cosine decays: plain, with warm restarts, and TensorFlow's linear cosine with and without noise."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Fraction, Integer, NonNegative, Number, Positive, PositiveFraction


@dataclass(frozen=True)
class Cosine(Factor, name="cosine"):
    """The factor is (1 - end_factor) * (1 + cos(pi * u)) / 2 + end_factor, u = min(s, D) / D, D = decay_steps.

    It equals TensorFlow's `cosine_decay` with alpha = end_factor, and torch's `CosineAnnealingLR` up to decay_steps.

    Args:
        decay_steps: updates until end_factor is reached, >= 1.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: Updates
    end_factor: Fraction = 0.0

    def factor(self, s: Floats) -> Floats:
        u = progress(s, self.decay_steps)
        return (1 - self.end_factor) * 0.5 * (1 + np.cos(math.pi * u)) + self.end_factor


@dataclass(frozen=True)
class CosineRestarts(Factor, name="cosine_restarts"):
    """The factor in cycle i is (1 - end_factor) * m_mul ** i * (1 + cos(pi * u)) / 2 + end_factor.

    u rises from 0 to 1 within the cycle. Cycle i has first_decay_steps * t_mul ** i updates and begins at
    s = first_decay_steps * (t_mul ** i - 1) / (t_mul - 1). It equals TensorFlow's `cosine_decay_restarts` and, with
    m_mul = 1 and an integer t_mul, torch's `CosineAnnealingWarmRestarts` (SGDR, 1608.03983).

    Args:
        first_decay_steps: updates of the first cycle, >= 1.
        t_mul: length of a cycle divided by the length of the previous one, >= 1.
        m_mul: height of a cycle divided by the height of the previous one, 0 < m_mul <= 1.
        end_factor: 0 <= end_factor <= 1.
    """

    first_decay_steps: Updates
    t_mul: Annotated[float, Number(at_least=1)] = 2.0
    m_mul: PositiveFraction = 1.0
    end_factor: Fraction = 0.0

    def factor(self, s: Floats) -> Floats:
        cycle, u = self._position(s / self.first_decay_steps)
        wave = 0.5 * self.m_mul**cycle * (1 + np.cos(math.pi * u))
        return (1 - self.end_factor) * wave + self.end_factor

    def _position(self, time: Floats) -> tuple[Floats, Floats]:
        """Return the number of the cycle, and u, for times in units of the first cycle's length."""
        t_mul = self.t_mul
        if t_mul == 1:
            return np.floor(time), time - np.floor(time)
        guess = np.floor(np.log(1 + time * (t_mul - 1)) / np.log(t_mul))

        def begin(cycle: Floats) -> Floats:
            return (t_mul**cycle - 1) / (t_mul - 1)

        # At a restart the logarithm has a rounding error; with a fractional t_mul, `begin` has one too.
        reached = time * (1 + 1e-12)
        guess = np.where(reached >= begin(guess + 1), guess + 1, np.where(reached < begin(guess), guess - 1, guess))
        return guess, (time - begin(guess)) / t_mul**guess


@dataclass(frozen=True)
class LinearCosine(Factor, name="linear_cosine"):
    """The factor is (alpha + 1 - u) * (1 + cos(2 * pi * num_periods * u)) / 2 + beta, u = min(s, D) / D.

    D is decay_steps. It equals TensorFlow's `linear_cosine_decay` (Bello et al., 1709.07417). At s = 0 the factor is
    1 + alpha + beta, which is above 1.

    Args:
        decay_steps: updates, >= 1.
        num_periods: periods of the cosine in decay_steps, > 0.
        alpha, beta: constants of the formula, >= 0.
    """

    decay_steps: Updates
    num_periods: Positive = 0.5
    alpha: NonNegative = 0.0
    beta: NonNegative = 0.001

    def factor(self, s: Floats) -> Floats:
        return self._waves(1 - progress(s, self.decay_steps), s)

    def _waves(self, linear: Floats, s: Floats) -> Floats:
        u = progress(s, self.decay_steps)
        return (self.alpha + linear) * 0.5 * (1 + np.cos(2 * math.pi * self.num_periods * u)) + self.beta


@dataclass(frozen=True)
class NoisyLinearCosine(LinearCosine, name="noisy_linear_cosine"):
    """`LinearCosine` with a random number from N(0, v / (1 + min(s, D)) ** d) added to 1 - u.

    It corresponds to TensorFlow's `noisy_linear_cosine_decay`, whose initial_variance and variance_decay are v and d.
    Here the random number is a pure function of (noise_seed, s), so that a preview and a resumed training have the same
    curve. The factor may be negative or above 1 + alpha + beta.

    Args:
        v: variance of the noise at s = 0, >= 0.
        d: exponent with which the variance falls, >= 0.
        noise_seed: seed of the random numbers, >= 0.
    """

    v: NonNegative = 1.0
    d: NonNegative = 0.55
    noise_seed: Annotated[int, Integer(at_least=0, at_most=2**53)] = 0

    def factor(self, s: Floats) -> Floats:
        deviation = np.sqrt(self.v / (1 + np.minimum(s, self.decay_steps)) ** self.d)
        noise = standard_normal(self.noise_seed, s)
        return self._waves(1 - progress(s, self.decay_steps) + deviation * noise, s)


NOISE_BLOCK_STEPS = 1024
"""Number of steps whose random numbers are generated together."""


def standard_normal(seed: int, s: Floats) -> Floats:
    """Return a number from N(0, 1) for each of the steps s (any shape); it depends on (seed, step) alone."""
    steps = np.asarray(s).astype(int)
    drawn = np.empty(steps.shape)
    for block in np.unique(steps // NOISE_BLOCK_STEPS).tolist():
        inside = steps // NOISE_BLOCK_STEPS == block
        drawn[inside] = _block(seed, block)[steps[inside] % NOISE_BLOCK_STEPS]
    return drawn


@lru_cache(maxsize=256)
def _block(seed: int, block: int) -> Floats:
    return np.random.default_rng([seed, block]).standard_normal(NOISE_BLOCK_STEPS)
