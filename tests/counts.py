"""Exact moments of the Conway-Maxwell-Poisson distribution."""

import math

import numpy as np
import scipy.special


def conway_truth(eta):
    """A, means and standard deviations by sums of all terms, with 64 bits of mantissa."""
    mode = math.exp(eta[0] / -eta[1])
    sd = math.sqrt(mode / -eta[1]) + 10 / eta[1] ** 2
    x = np.arange(max(0, int(mode - 45 * sd)), int(mode + 45 * sd) + 3000, dtype=np.longdouble)
    # eta . T may be 5e6: doubles have too few digits for its sums.
    steps = np.log(np.maximum(x, 1))
    steps[0] = scipy.special.gammaln(float(x[0] + 1))
    stats = np.stack([x, np.cumsum(steps)], 1)
    logs = stats @ np.asarray(eta, np.longdouble)
    p = np.exp(logs - logs.max())
    log_partition, p = logs.max() + np.log(p.sum()), p / p.sum()
    mean = p @ stats
    found = log_partition, mean, np.sqrt(p @ (stats - mean) ** 2)
    return tuple(np.asarray(part, float) for part in found)
