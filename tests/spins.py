"""Exact moments of the Ising model on a grid with free edges, by the transfer matrix."""

import numpy as np


def transfer(eta, shape):
    """A, site by site, in double precision."""
    (field, coupling), (rows, columns) = eta, shape
    bits = (np.arange(2**columns)[:, None] >> np.arange(columns)) & 1
    spins = 2.0 * bits - 1
    within = field * spins.sum(1) + coupling * (spins[:, 1:] * spins[:, :-1]).sum(1)
    logs = within
    for _ in range(rows - 1):
        for i in range(columns):
            low, high = np.moveaxis(logs.reshape(-1, 2, 2**i), 1, 0)
            up = np.logaddexp(low + coupling, high - coupling)
            logs = np.stack([up, np.logaddexp(low - coupling, high + coupling)], 1).ravel()
        logs = logs + within
    highest = logs.max()
    return highest + np.log(np.exp(logs - highest).sum())


def ising_truth(eta, shape, step=1e-3):
    """A, means and standard deviations of T, by differences of A of the fourth order."""
    eta = np.asarray(eta, float)
    shifts = step * np.eye(2)
    values = {k: np.array([transfer(eta + k * s, shape) for s in shifts]) for k in range(-2, 3)}
    mean = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * step)
    second = 16 * (values[1] + values[-1]) - (values[2] + values[-2]) - 30 * values[0]
    return values[0][0], mean, np.sqrt(second / (12 * step**2))
