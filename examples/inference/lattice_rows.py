"""Rows of a lattice field as nodes: structured mean field, and structured EP.

`lattice.py` imports this module, and compares it with other approximations.

A row of n sites is an open chain. Its statistics are x_j, x_j^2, x_j^4 of each site and the product
of each bond, so that each site has a field. With equal parameters at all sites it is
`nd.LatticePhi4(n)`, whose statistics are the sums. That family does not contain the messages of a
random field, or the messages to the sites of an open row, because their means differ.

Structured mean field couples rows by means. Structured EP approximates the coupling by a Gaussian
message to each site, (x, x^2). At convergence, the rows and a Gaussian with the true coupling agree
on E[x] and E[x^2] of all sites.

Reference: Saul and Jordan, *Exploiting tractable substructures in intractable networks*, NIPS
1995. Opper and Winther, *Expectation consistent approximate inference*, JMLR 6 (2005). Giordano,
Broderick and Jordan, *Covariances, robustness, and variational Bayes*, JMLR 19 (2018), for linear
response.
"""

import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import nnef_dists as nd
from nnef_dists.distributions import AbstractTractableFamily, HMCSampler
from nnef_dists.sampling import AbstractSampler

COUPLING = 0.25
GRID = np.linspace(-5, 5, 121)


class Row(nd.ExponentialFamily):
    """An open chain of sites, with x, x^2 and x^4 of each site and products of neighbors."""

    sites: int = eqx.field(static=True)
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(x4=nd.negative)

    def __init__(self, sites: int):
        self.sites = sites

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of x, one value per site."""
        return (self.sites,)

    def compute_stats(self, x):
        """Returns the statistics of sites and of bonds."""
        return {"x": x, "x2": x**2, "x4": x**4, "bonds": x[1:] * x[:-1]}


class TransferMatrix(AbstractTractableFamily):
    """A and mu of `Row`, by successive sums over a grid of each site."""

    family: Row
    sampler: AbstractSampler = eqx.field(default_factory=HMCSampler)
    strict: bool = eqx.field(static=True, default=False)

    def _potential(self, eta):
        n, x = self.family.sites, jnp.asarray(GRID, eta.dtype)
        site = eta[: 3 * n].reshape(3, n).T @ jnp.stack([x, x**2, x**4])

        def absorb(logs, parts):
            site, bond = parts
            logs = jax.nn.logsumexp(logs + bond * x[:, None] * x, axis=1) + site
            return logs, jnp.maximum(logs[0], logs[-1]) - jnp.max(logs)

        logs, ends = jax.lax.scan(absorb, site[0], (site[1:], eta[3 * n :]))
        # The sum converges if the density vanishes at its ends. If not, derivatives are NaN, too.
        known = jnp.where(jnp.max(ends) < -20, 1.0, jnp.nan)
        return known * (jax.nn.logsumexp(logs) + n * math.log(GRID[1] - GRID[0]))

    def _mean(self, eta):
        return jax.grad(self._potential)(eta)


def make_nodes(size):
    """Returns nodes of even and odd rows. Each row takes messages from the other kind only."""
    q = TransferMatrix(Row(size))
    even, odd = (size + 1) // 2, size // 2
    return {"even": nd.inference.Node(q, (even,)), "odd": nd.inference.Node(q, (odd,))}


def in_order(even, odd):
    """Returns the rows of the lattice in order, from even and odd rows."""
    rows = jnp.zeros((len(even) + len(odd), *even.shape[1:]), even.dtype)
    return rows.at[0::2].set(even).at[1::2].set(odd)


def energy(t, field, down=COUPLING):
    """Returns the log joint density in statistics. `down` couples rows."""
    x, x4, bonds = (in_order(t["even"][name], t["odd"][name]) for name in ("x", "x4", "bonds"))
    rows = jnp.sum(field * x) - jnp.sum(x4) / 4 + COUPLING * jnp.sum(bonds)
    return rows + down * jnp.sum(x[1:] * x[:-1])


def log_joint(x, field, down=COUPLING):
    """Returns the log joint density in values, for `check_energy`."""
    x = in_order(x["even"], x["odd"])
    across = COUPLING * jnp.sum(x[:, 1:] * x[:, :-1])
    return jnp.sum(field * x - x**4 / 4) + across + down * jnp.sum(x[1:] * x[:-1])


def uncoupled(field):
    """Returns natural parameters of rows without coupling."""
    field = jnp.asarray(field, float)
    bonds = jnp.full_like(field[:, 1:], COUPLING)
    return jnp.concatenate([field, jnp.zeros_like(field), jnp.full_like(field, -0.25), bonds], 1)


def infer(field, sweeps=40):
    """Runs coordinate ascent. Returns eta of the rows in order, and the ELBO by sweep."""
    field, own = jnp.asarray(field, float), uncoupled(field)
    nodes = make_nodes(len(field))

    def sweep(eta, _):
        for name in nodes:
            eta = nd.inference.step(energy, nodes, eta, name, field)
        return eta, nd.inference.elbo(energy, nodes, eta, field)

    run = jax.jit(lambda eta: jax.lax.scan(sweep, eta, length=sweeps))
    eta, bounds = run({"even": own[0::2], "odd": own[1::2]})
    return in_order(eta["even"], eta["odd"]), bounds


def moments(eta):
    """Returns E[T] of rows, `(rows, eta_dim)`, covariances of sites, `(rows, n, n)`, and A."""
    size = len(eta)
    q = TransferMatrix(Row(size))
    mean = jax.jit(jax.vmap(q.mean))(eta)
    covariance = jax.jit(jax.vmap(lambda eta: q.covariance(eta)[:size, :size]))(eta)
    log_partition = jax.jit(jax.vmap(q.log_partition))(eta)
    return tuple(np.asarray(part, np.float64) for part in (mean, covariance, log_partition))


def make_couplings(size):
    """Returns couplings of all sites with the rows above and below, `(size^2, size^2)`."""
    couplings = np.zeros((size, size, size, size))
    for row in range(size - 1):
        couplings[row, :, row + 1] = couplings[row + 1, :, row] = COUPLING * np.eye(size)
    return couplings.reshape(size**2, -1)


class Consistent(NamedTuple):
    """Structured EP between sweeps.

    Attributes:
        eta: Natural parameters of rows, `(rows, eta_dim)`.
        covariance: Covariance of all sites under the Gaussian with the true coupling.
        log_evidence: Approximate evidence, in nats, not a bound.
        change: Change of the messages to rows without damping, `(2, sites)`.
    """

    eta: Array
    covariance: np.ndarray
    log_evidence: float
    change: np.ndarray


def propagate(field, sweeps=20, rho=0.9):
    """Runs structured EP, between rows and a Gaussian with the coupling of rows.

    Returns:
        The last sweep, and the messages to rows: linear terms and precisions, `(2, sites)`.
    """
    size, own, couplings = len(field), uncoupled(field), make_couplings(len(field))
    both = jax.jit(jax.vmap(jax.value_and_grad(TransferMatrix(Row(size)).log_partition)))

    def exchange(to_rows):
        linear, precision = to_rows.reshape(2, size, size)
        # The order of the family is x, then x^2.
        eta = own.at[:, :size].add(linear).at[:, size : 2 * size].add(-precision / 2)
        log_rows, mean = (np.asarray(part, np.float64) for part in both(eta))
        x, square = mean[:, :size].ravel(), mean[:, size : 2 * size].ravel()
        sites = np.stack([x, np.ones_like(x)]) / (square - x**2)
        linear, precision = sites - to_rows
        covariance = np.linalg.inv(np.diag(precision) - couplings)
        log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
        log_gaussian = (linear @ covariance @ linear + log_det) / 2
        log_sites = np.sum(sites[0] ** 2 / sites[1] + np.log(2 * np.pi / sites[1])) / 2
        found = np.stack([covariance @ linear, np.ones_like(x)]) / covariance.diagonal()
        log_evidence = float(log_rows.sum() + log_gaussian - log_sites)
        return Consistent(eta, covariance, log_evidence, found - sites)

    to_rows = np.zeros((2, size**2))
    found = exchange(to_rows)
    for _ in range(sweeps):
        to_rows = to_rows + rho * found.change
        found = exchange(to_rows)
    return found, to_rows


def linear_response(own, couplings):
    """Returns the covariance of all sites, `(n, n)`, by linear response.

    The factors have covariance V and linear terms J E[x]. The derivative of their means in their
    fields is V. At the fixed point, the derivative of all means in all fields is (V^-1 - J)^-1, the
    covariance. In structured EP the linear terms are (J + L) E[x], with fixed precisions L of its
    messages.
    """
    return np.linalg.inv(np.linalg.inv(own) - couplings)


def of_all_sites(by_row):
    """Returns the covariance of all sites, `(size^2, size^2)`, for independent rows."""
    size = len(by_row)
    own = np.zeros((size, size, size, size))
    for row in range(size):
        own[row, :, row] = by_row[row]
    return own.reshape(size**2, -1)


def with_response(mean, covariance):
    """Returns moments from means of sites, `(size, size)`, and the covariance of all sites."""
    size = len(mean)
    second = mean.ravel() * mean.ravel()[:, None] + covariance
    site = np.arange(size**2).reshape(size, size)
    pairs = (site, site), (site[:, 1:], site[:, :-1]), (site[1:], site[:-1])
    return [mean.ravel(), *(second[one, other].ravel() for one, other in pairs)]
