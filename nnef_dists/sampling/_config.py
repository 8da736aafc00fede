"""Settings of the samplers, and thresholds of valid labels."""

import math
from dataclasses import dataclass

from nnef_dists._ranges import check_integer, check_number


@dataclass(frozen=True)
class HMCConfig:
    """Settings of the samplers, and thresholds of valid labels.

    Attributes:
        chains: Number of chains per eta, at least 4. Defaults to 16.
        warmup: Number of adaptation iterations per chain, at least 24. Defaults to 240.
        draws: Number of iterations per chain after the adaptation, at least 8. Defaults to 250.
        leapfrog_steps: Number of gradient evaluations per iteration, at least 1. Defaults to 5.
            Batched chains never wait for each other, because the number is fixed.
        initial_step_size: Step size at the start of the adaptation, positive. Defaults to 0.1.
        target_acceptance: Mean acceptance probability that the step-size adaptation aims at, in
            (0, 1). Defaults to 0.95. The actual acceptance is often higher, because trajectories
            are limited to a quarter period of the whitened density. At this length, successive
            draws of a Gaussian are independent.
        step_size_jitter: Half-width, in [0, 1], of the uniform factor around 1 that multiplies the
            step size in each iteration. Defaults to 0.2. Trajectories of fixed length resonate with
            some densities.
        dispersion: Standard deviation, in unconstrained coordinates, of the points from which half
            of the searches for modes begin. The others begin at distances from 0.01 to 10,000.
            Chains start around the modes. Defaults to 2.
        global_moves: Whether an independence Metropolis step, whose proposal is fitted to the
            warm-up of all chains, follows each HMC transition. In few dimensions, this step moves
            chains between modes. In many, it is rarely accepted and costs little.
        control_variates: Whether Stein control variates, built from the gradients of HMC, correct
            the moments.
        ladder: Whether a rejected label is resampled, first by a longer run. If chains still
            mix poorly, a fallback sampler follows: importance sampling (up to three dimensions),
            tempered sequential Monte Carlo (above) or tempered Gibbs sampling (discrete x).
        tile: Number of etas per compiled call, at least 1. Defaults to 64. For an equal tile,
            labels are bitwise identical for any number and order of the etas.
        max_rhat: Largest split R-hat of any statistic of a valid label, above 1. Defaults to 1.02.
        min_ess: Smallest split-chain effective sample size of any statistic of a valid label.
            Defaults to 400.
        max_divergences: Largest fraction of divergent transitions of a valid label, in [0, 1].
            Defaults to 0.001.
        max_influence: Largest share of one draw, in [0, 1], in the sum of squared deviations from
            which a mean or a covariance of a valid label is estimated. Defaults to 0.8.
        quadrature: Whether labels in one and two dimensions are compared with quadrature. A label
            is rejected if the errors of both cannot explain the difference.

    Raises:
        ValueError: If a value is out of its range, NaN, or not one concrete number.
    """

    chains: int = 16
    warmup: int = 240
    draws: int = 250
    leapfrog_steps: int = 5
    initial_step_size: float = 0.1
    target_acceptance: float = 0.95
    step_size_jitter: float = 0.2
    dispersion: float = 2.0
    global_moves: bool = True
    control_variates: bool = True
    ladder: bool = True
    tile: int = 64
    max_rhat: float = 1.02
    min_ess: float = 400.0
    max_divergences: float = 0.001
    max_influence: float = 0.8
    quadrature: bool = True

    def __post_init__(self):
        integers = {"chains": 4, "warmup": 24, "draws": 8, "leapfrog_steps": 1, "tile": 1}
        for name, least in integers.items():
            self._set(name, check_integer(name, getattr(self, name), least))
        ranges = {
            "initial_step_size": (0.0, math.inf),
            "target_acceptance": (0.0, 1.0),
            "dispersion": (0.0, math.inf),
            "max_rhat": (1.0, math.inf),
        }
        for name, (low, high) in ranges.items():
            self._set(name, check_number(name, getattr(self, name), low, high))
        for name, high in {
            "step_size_jitter": 1,
            "max_divergences": 1,
            "max_influence": 1,
            "min_ess": math.inf,
        }.items():
            value = check_number(name, getattr(self, name), 0.0, high, closed="both")
            self._set(name, value)

    def _set(self, name: str, value: float | int) -> None:
        """Replaces NumPy scalars and arrays by Python numbers, which are hashed and stored."""
        if type(getattr(self, name)) not in (int, float):
            object.__setattr__(self, name, value)
