"""Message passing against coordinate ascent written by hand in conjugate models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import digamma, gammaln

import nnef_dists as nd
from nnef_dists.inference import Node, elbo, expected_statistics, message, step
from tests.networks.data import exact_data
from tests.networks.exact import family_of, potential_of
from tests.numerics import assert_close
from tests.test_compiled import callbacks

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN, GAMMA = nd.GaussianNatural1D(), nd.Gamma()
X = jnp.asarray(np.random.default_rng(0).normal(1.5, 0.7, 40), jnp.result_type(float))


def wide_network(family, ranges):
    """The exact log-partition, with labels as far as the ascent goes."""
    etas = family.sample_eta(jax.random.key(0), 1024, ranges)
    exact = potential_of(type(family).__name__)
    data = exact_data(family, etas)
    network = dataclasses.replace(exact, standardization=nd.networks.Standardization.fit(data))
    return nd.AmortizedFamily(family, network)


# Priors: m ~ N(0, 1 / 0.1), t ~ Gamma(2, 1).
SOURCES = {
    "closed": (nd.ClosedForm(GAUSSIAN), nd.ClosedForm(GAMMA)),
    "quadrature": (nd.Quadrature(GAUSSIAN), nd.Quadrature(GAMMA)),
    "network": (
        wide_network(GAUSSIAN, {"x": (-10.0, 250.0), "x2": (-90.0, -0.5, "log")}),
        wide_network(GAMMA, {"log_x": (0.5, 30.0, "log"), "x": (-40.0, -0.5, "log")}),
    ),
}


def normal_gamma(t, x):
    """x ~ N(m, 1 / t), without its constant."""
    m, tau = t["m"], t["tau"]
    squares = jnp.sum(x**2) - 2 * m["x"] * jnp.sum(x) + len(x) * m["x2"]
    return (
        len(x) / 2 * tau["log_x"]
        - tau["x"] / 2 * squares
        - 0.05 * m["x2"]
        + tau["log_x"]
        - tau["x"]
    )


def normal_gamma_joint(v, x):
    m, tau = v["m"], v["tau"]
    likelihood = jnp.sum(jnp.log(tau) / 2 - jnp.log(2 * jnp.pi) / 2 - tau * (x - m) ** 2 / 2)
    return likelihood - 0.05 * m**2 + jnp.log(tau) - tau


def by_hand(x, sweeps):
    """Bishop, Pattern Recognition and Machine Learning, section 10.1.3, in double precision."""
    x, n = np.asarray(x, np.float64), len(x)
    shape, rate, bounds = 2.0, 1.0, []
    for _ in range(sweeps):
        precision = 0.1 + n * shape / rate
        mean = shape / rate * x.sum() / precision
        shape = 2.0 + n / 2
        rate = 1.0 + (np.sum((x - mean) ** 2) + n / precision) / 2
        tau, log_tau = shape / rate, digamma(shape) - np.log(rate)
        squares = np.sum((x - mean) ** 2) + n / precision
        energy = n / 2 * log_tau - tau * squares / 2 - 0.05 * (mean**2 + 1 / precision)
        energy += log_tau - tau
        entropy = np.log(2 * np.pi * np.e / precision) / 2
        entropy += shape - np.log(rate) + gammaln(shape) + (1 - shape) * digamma(shape)
        bounds.append(float(energy + entropy))
    natural = {"m": (mean * precision, -precision / 2), "tau": (shape - 1, -rate)}
    return {name: np.array(value, np.float64) for name, value in natural.items()}, np.array(bounds)


@functools.cache
def ascended(source):
    nodes = {name: Node(q) for name, q in zip(("m", "tau"), SOURCES[source], strict=True)}
    start = {"m": jnp.array([0.0, -1.0]), "tau": jnp.array([1.0, -1.0])}

    @jax.jit
    def run(eta, x):
        def sweep(eta, _):
            for name in nodes:
                eta = step(normal_gamma, nodes, eta, name, x)
            return eta, elbo(normal_gamma, nodes, eta, x)

        return jax.lax.scan(sweep, eta, length=6)

    return (nodes, *run(start, X))


@pytest.mark.parametrize("source", SOURCES)
class TestNormalGamma:
    def test_is_the_ascent_by_hand(self, source):
        _, eta, bounds = ascended(source)
        with jax.enable_x64(True):
            exact, exact_bounds = by_hand(X, 6)
        for name, value in exact.items():
            assert_close(eta[name], value, ulps=64)
        # Sums of A, eta . mu and the energy, which are up to 200 nats.
        assert_close(bounds, exact_bounds, scale=200.0, ulps=32)

    def test_the_bound_rises(self, source):
        bounds = np.asarray(ascended(source)[2])
        assert np.all(np.diff(bounds) > -200 * 16 * np.finfo(bounds.dtype).eps)
        assert bounds[-1] > bounds[0]

    def test_messages(self, source):
        """To m given tau: the sum of x times the mean of tau, and the precisions."""
        nodes, eta, _ = ascended(source)
        statistics = expected_statistics(nodes, eta)
        tau = np.asarray(statistics["tau"]["x"], np.float64)
        exact = np.array([tau * np.sum(np.asarray(X, np.float64)), -0.05 - tau * len(X) / 2])
        assert_close(message(normal_gamma, statistics, "m", X), exact)


RATES = {"w": Node(nd.ClosedForm(GAMMA), (3, 2)), "b": Node(nd.ClosedForm(GAMMA))}
COUNTS = jnp.asarray([[1.0, 4.0], [0.0, 2.0], [7.0, 3.0]])
RATES_START = {
    "w": jnp.broadcast_to(jnp.array([1.0, -1.0]), (3, 2, 2)),
    "b": jnp.array([1.0, -1.0]),
}


def poisson(t, y, scale=1.0):
    """y ~ Poisson(w), w ~ Gamma(2, b), b ~ Gamma(3, 1)."""
    w, b = t["w"], t["b"]
    local = (y + 1) * w["log_x"] - w["x"] + 2 * b["log_x"] - b["x"] * w["x"]
    return scale * jnp.sum(local) + 2 * b["log_x"] - b["x"]


class TestPlates:
    def test_elements_are_independent(self):
        """w is Gamma(2 + y, 1 + E[b]), and b is Gamma(3 + 2 n, 1 + sum E[w])."""
        eta = step(poisson, RATES, RATES_START, "w", COUNTS)
        assert eta["w"].shape == (3, 2, 2)
        y = np.asarray(COUNTS)
        exact = np.stack([1 + y, np.full_like(y, -3.0)], -1)
        assert_close(eta["w"], exact)
        eta = step(poisson, RATES, eta, "b", COUNTS)
        exact = np.array([2 + 2 * 6, -1 - np.sum((2 + y) / 3)])
        assert_close(eta["b"], exact)

    def test_damping_and_extra(self):
        full = step(poisson, RATES, RATES_START, "w", COUNTS)["w"]
        half = step(poisson, RATES, RATES_START, "w", COUNTS, rho=0.5)["w"]
        assert_close(half, (np.asarray(full) + np.asarray(RATES_START["w"])) / 2)
        extra = jnp.full((3, 2, 2), 0.25)
        more = step(poisson, RATES, RATES_START, "w", COUNTS, extra=extra)["w"]
        assert_close(more, np.asarray(full) + 0.25)

    def test_minibatches(self):
        """Half of the plate, counted twice, and its mirror image average to the whole."""
        half = {"w": Node(RATES["w"].q, (3, 1)), "b": RATES["b"]}
        found, shared = [], []
        for part in (slice(0, 1), slice(1, 2)):
            eta = {"w": RATES_START["w"][:, part], "b": RATES_START["b"]}
            y = COUNTS[:, part]
            found.append(elbo(poisson, half, eta, y, 2.0, scale={"w": 2.0}))
            shared.append(message(poisson, expected_statistics(half, eta), "b", y, 2.0))
        whole = elbo(poisson, RATES, RATES_START, COUNTS)
        assert_close(jnp.mean(jnp.stack(found)), np.asarray(whole), scale=50.0)
        exact = message(poisson, expected_statistics(RATES, RATES_START), "b", COUNTS)
        assert_close(jnp.mean(jnp.stack(shared), 0), np.asarray(exact))

    def test_extra_is_added_to_the_bound(self):
        bound = elbo(poisson, RATES, RATES_START, COUNTS)
        extra = elbo(poisson, RATES, RATES_START, COUNTS, extra=jnp.asarray(2.5))
        assert_close(extra, np.asarray(bound + 2.5), scale=50.0)


class TestRetreat:
    """Energies whose message leaves the domain at one element."""

    @staticmethod
    def broken(t, y):
        return jnp.sum(t["w"]["log_x"] + (y - 5) * t["w"]["x"]) - t["b"]["x"]

    def test_an_element_keeps_half_of_its_distance_to_the_edge(self):
        eta = step(self.broken, RATES, RATES_START, "w", COUNTS, retreat=True)["w"]
        full = jnp.stack([jnp.ones_like(COUNTS), COUNTS - 5], -1)
        # From a rate of -1 toward 2: 0.25 is the longest step that stays negative.
        exact = np.asarray(full.at[2, 0, 1].set(-1 + 3 * 0.125))
        assert_close(eta, exact)
        compiled = jax.jit(lambda eta: step(self.broken, RATES, eta, "w", COUNTS, retreat=True))
        assert_close(compiled(RATES_START)["w"], exact)

    def test_steps_that_stay_inside_are_the_same(self):
        for rho in (1.0, 0.3):
            plain = step(poisson, RATES, RATES_START, "w", COUNTS, rho=rho)["w"]
            found = step(poisson, RATES, RATES_START, "w", COUNTS, rho=rho, retreat=True)["w"]
            np.testing.assert_array_equal(found, plain)

    def test_no_step_leads_back_inside(self):
        outside = {**RATES_START, "w": RATES_START["w"].at[0, 1, 1].set(2.0)}

        def inward(eta):
            return step(self.broken, RATES, eta, "w", jnp.full_like(COUNTS, 7.0), retreat=True)["w"]

        assert np.isnan(jax.jit(inward)(outside)[0, 1]).all()
        with pytest.raises(ValueError, match=r"valid eta of Gamma.*\(0, 1\).*retreat=True"):
            inward(outside)

    def test_training_regions(self):
        """A message beyond what a network has learned."""
        nodes = {"m": Node(family_of("GaussianNatural1D"), (2,))}
        eta = {"m": jnp.tile(jnp.array([0.0, -1.0]), (2, 1))}

        def energy(t):
            return jnp.sum(jnp.array([0.5, 300.0]) * t["m"]["x"] - t["m"]["x2"])

        with pytest.raises(ValueError, match=r"'m' in the training region; got .*element \(1,\)"):
            step(energy, nodes, eta, "m")
        lost = jax.jit(lambda eta: step(energy, nodes, eta, "m"))(eta)
        assert np.isnan(lost["m"][1]).all()
        assert_close(lost["m"][0], np.array([0.5, -1.0]))
        kept = step(energy, nodes, eta, "m", retreat=True)
        assert nodes["m"].q.is_inside(kept["m"][1])
        assert 0 < kept["m"][1, 0] < 300
        beyond = {"m": eta["m"].at[1, 0].set(300.0)}
        means = jax.jit(lambda eta: expected_statistics(nodes, eta))(beyond)["m"]["x"]
        np.testing.assert_array_equal(np.isnan(means), [False, True])


class TestNaN:
    def test_an_element_that_leaves_the_domain(self):
        """A rate that is negative where y is large."""

        def broken(t, y):
            return jnp.sum(t["w"]["log_x"] + (y - 5) * t["w"]["x"]) - t["b"]["x"]

        with pytest.raises(ValueError, match=r"node 'w' that is a valid eta of Gamma.*\(2, 0\)"):
            step(broken, RATES, RATES_START, "w", COUNTS)
        eta = jax.jit(lambda eta: step(broken, RATES, eta, "w", COUNTS))(RATES_START)
        bad = np.zeros((3, 2), bool)
        bad[2, 0] = True
        assert np.array_equal(np.isnan(eta["w"]).all(-1), bad)
        assert np.array_equal(np.isnan(eta["w"]).any(-1), bad)
        found = jax.jit(lambda eta: expected_statistics(RATES, eta))(eta)
        assert np.array_equal(np.isnan(found["w"]["x"]), bad)

    def test_an_elbo_outside_of_the_domain(self):
        bad = {**RATES_START, "w": -RATES_START["w"]}
        with pytest.raises(ValueError, match=r"eta of node 'w' in the domain of Gamma"):
            elbo(poisson, RATES, bad, COUNTS)
        assert np.isnan(jax.jit(lambda eta: elbo(poisson, RATES, eta, COUNTS))(bad))

    def test_a_program_with_concrete_etas(self):
        compiled = jax.jit(
            lambda s: elbo(lambda t, y: s * poisson(t, y), RATES, RATES_START, COUNTS)
        )
        assert_close(compiled(1.0), elbo(poisson, RATES, RATES_START, COUNTS))

    def test_an_energy_that_is_not_linear(self):
        def curved(t, y):
            return poisson(t, y) - 0.1 * jnp.sum(t["w"]["x"] ** 2)

        assert np.isnan(elbo(curved, RATES, RATES_START, COUNTS))
        assert np.isfinite(elbo(poisson, RATES, RATES_START, COUNTS))

    def test_the_square_of_a_difference_that_is_zero(self):
        family = nd.MultivariateNormal(2)
        nodes = {"w": Node(nd.ClosedForm(family))}
        eta = {"w": family.to_natural(jnp.zeros(2), jnp.eye(2))}

        def squared(t):
            return -0.5 * (t["w"]["x"][0] - t["w"]["x"][1]) ** 2 - 0.5 * jnp.trace(t["w"]["xxT"])

        assert np.isnan(elbo(squared, nodes, eta))

    def test_moments_of_a_node_that_are_not_known(self):
        """Sums at this rate lose too many digits in single precision, within a program."""
        nodes = {"k": Node(nd.Summation(nd.families.Poisson()), (1,)), "r": RATES["b"]}
        eta = {"k": jnp.array([[6.1]], jnp.float32), "r": jnp.array([400.0, -1.0], jnp.float32)}

        def energy(t):
            return jnp.sum(t["k"]["x"]) * t["r"]["log_x"] - t["r"]["x"]

        assert np.isnan(expected_statistics(nodes, eta)["k"]["x"]).all()
        message = r"Expected known moments of node 'k'; got NaN at eta \[6\.1\] at plate element"
        for call in (elbo, lambda *args: step(*args, "r")):
            with pytest.raises(ValueError, match=message):
                call(energy, nodes, eta)

    def test_coupled_elements_are_linear(self):
        def coupled(t, y):
            x = t["w"]["x"]
            return poisson(t, y) - 0.1 * jnp.sum(x[1:] * x[:-1])

        assert np.isfinite(elbo(coupled, RATES, RATES_START, COUNTS))


def test_gradients_and_batches():
    """The bound is a function like any other: of data, over a batch of them, without callbacks."""

    def bound(eta, y):
        return elbo(poisson, RATES, step(poisson, RATES, eta, "w", y), y)

    gradient = jax.jit(jax.grad(bound, argnums=1))(RATES_START, COUNTS)
    assert np.isfinite(gradient).all()
    batch = jax.jit(jax.vmap(bound, (None, 0)))(RATES_START, jnp.stack([COUNTS, COUNTS + 1]))
    assert_close(batch[0], np.asarray(bound(RATES_START, COUNTS)), scale=50.0)
    assert not callbacks(bound, RATES_START, COUNTS)


class TestRefusals:
    NODES, ETA = RATES, RATES_START

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda n, e: step(poisson, n, e, "v", COUNTS), r"one of \['w', 'b'\]; got 'v'"),
            (
                lambda n, e: expected_statistics(n, {"w": e["w"]}),
                r"nodes \['w', 'b'\]; got \['w'\]",
            ),
            (
                lambda n, e: elbo(poisson, n, {**e, "w": e["b"]}, COUNTS),
                r"'w' of shape \(3, 2, 2\)",
            ),
            (lambda n, e: elbo(poisson, n, {**e, "b": jnp.array([1, -1])}, COUNTS), "floating"),
            (lambda n, e: step(poisson, n, e, "w", COUNTS, rho=1.5), r"rho in \(0, 1\]; got 1.5"),
            (lambda n, e: step(poisson, n, e, "w", COUNTS, rho=jnp.ones(2)), r"got shape \(2,\)"),
            (lambda n, e: step(poisson, n, e, "w", COUNTS, extra=e["b"]), r"extra of shape"),
            (lambda n, e: elbo(poisson, n, e, COUNTS, extra=e["b"]), r"extra as a number; got"),
            (
                lambda n, e: elbo(poisson, n, e, COUNTS, scale={"b": e["b"]}),
                r"scale\['b'\] as a number; got shape \(2,\)",
            ),
            (lambda n, e: elbo(lambda t: t["w"]["x"], n, e), r"scalar.*jnp\.sum"),
            (lambda n, e: elbo(lambda t: t["w"]["xx"], n, e), r"one of \['log_x', 'x'\]; got 'xx'"),
            (lambda n, e: elbo(poisson, n, e, COUNTS, scale={"v": 2.0}), "got 'v'"),
            (
                lambda n, e: step(lambda t: t["v"]["x"], n, e, "w"),
                r"one of \['w', 'b'\]; got 'v'. Add the node",
            ),
            (
                lambda n, e: step(poisson, n, {**e, "b": jnp.array([1.0, 1.0])}, "w", COUNTS),
                r"eta of node 'b' in the domain of Gamma\(\); got \[1\. 1\.\]\. Start from",
            ),
        ],
    )
    def test_arguments(self, call, message, without_type_checks):
        with pytest.raises(ValueError, match=message):
            call(self.NODES, self.ETA)

    def test_a_traced_step_size(self):
        taken = jax.jit(lambda rho: step(poisson, self.NODES, self.ETA, "w", COUNTS, rho=rho)["w"])
        assert np.isnan(taken(2.5)).all()
        assert_close(taken(1.0), step(poisson, self.NODES, self.ETA, "w", COUNTS)["w"])

    def test_nodes(self, without_type_checks):
        with pytest.raises(ValueError, match=r"got the family Gamma\(\). Use ClosedForm\(family\)"):
            Node(GAMMA)
        with pytest.raises(ValueError, match="q to be an instance of AbstractTractableFamily"):
            Node(3)
        with pytest.raises(ValueError, match=r"tuple of positive sizes; got 3.*\(n,\)"):
            Node(nd.ClosedForm(GAMMA), 3)
