"""How moments are sampled, and when a label counts as good."""

import math
from dataclasses import dataclass

from nnef_dists._ranges import check_integer, check_number


@dataclass(frozen=True)
class HMCConfig:
    """How moments are sampled, and when a label counts as good.

    Attributes:
        chains: Chains for each eta, at least 4.
        warmup: Iterations of each chain before the adaptation ends, at least 24.
        draws: Iterations of each chain after it, at least 8.
        leapfrog_steps: Gradient evaluations an iteration, the same for all etas and iterations, so
            that batched chains never wait for each other.
        initial_step_size: Where the adaptation of the step size starts.
        target_acceptance: The mean acceptance that the step size is adapted to. A trajectory is
            never longer than a quarter period of the whitened density, where draws of a Gaussian
            are independent, so acceptance is often higher.
        step_size_jitter: In every iteration the step size is multiplied by a uniform draw from
            1 -/+ this: a trajectory of fixed length resonates with some densities.
        dispersion: Standard deviation, in unconstrained coordinates, of the points from which half
            of the searches for modes begin; the others begin at distances from 0.01 to 10,000.
            Chains start around the modes.
        global_moves: Whether an independence Metropolis step, whose proposal is fitted to the
            warm-up of all chains, follows each HMC transition. In few dimensions it carries chains
            between modes; in many it is rarely accepted and costs little.
        control_variates: Whether moments are corrected by Stein control variates, from the
            gradients that HMC computes anyway.
        ladder: Whether an eta whose label fails is tried again: by a longer run, then by importance
            sampling (up to three dimensions) or tempered sequential Monte Carlo (above).
        tile: How many etas one compiled program treats. Labels are reproducible bit for bit for
            the same tile, whatever the number and order of the etas.
        max_rhat: A label is refused where split R-hat is above this in any statistic.
        min_ess: A label is refused where the split-chain effective sample size is below this in
            any statistic.
        max_divergences: A label is refused where more than this fraction of transitions diverged.
        max_influence: A label is refused where one draw has more than this share in the sum of
            squared deviations that a mean or a covariance is estimated from.
        quadrature: Whether labels of one and two dimensions are compared with quadrature, and
            refused where both errors cannot explain the difference.

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
