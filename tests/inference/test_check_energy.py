"""check_energy accepts right energies, and refuses wrong ones by the name of the node."""

import jax
import jax.numpy as jnp
import pytest

import nnef_dists as nd
from nnef_dists.inference import Node, check_energy
from tests.inference.test_coordinate_ascent import (
    COUNTS,
    RATES,
    SOURCES,
    X,
    normal_gamma,
    normal_gamma_joint,
    poisson,
)

KEY = jax.random.key(0)
NODES = {name: Node(q) for name, q in zip(("m", "tau"), SOURCES["closed"], strict=True)}


def poisson_joint(v, y, scale=1.0):
    w, b = v["w"], v["b"]
    local = y * jnp.log(w) - w + 2 * jnp.log(b) + jnp.log(w) - b * w
    return scale * jnp.sum(local) + 2 * jnp.log(b) - b


def test_right_energies():
    report = check_energy(normal_gamma, normal_gamma_joint, NODES, KEY, X)
    assert report.coupled == ()
    # The constant that the energy leaves out.
    assert abs(report.constant - len(X) / 2 * jnp.log(2 * jnp.pi)) < 1e-4
    assert "nats" in str(report)
    report = check_energy(poisson, poisson_joint, RATES, KEY, COUNTS)
    assert abs(report.constant) < 1e-9
    assert report.coupled == ()


def changed(term):
    """The Poisson energy with one more term."""
    return lambda t, y: poisson(t, y) + term(t, y)


@pytest.mark.parametrize(
    ("term", "node"),
    [
        (lambda t, y: t["b"]["x"], "b"),
        (lambda t, y: -2 * t["b"]["log_x"], "b"),
        (lambda t, y: 2 * jnp.sum(t["w"]["x"]), "w"),
        (lambda t, y: -jnp.sum(y[:1] * t["w"]["log_x"][:1]), "w"),
        (lambda t, y: t["b"]["x"] * jnp.sum(t["w"]["x"]), "w"),
        (lambda t, y: -jnp.sum(t["w"]["log_x"]), "w"),
    ],
    ids=["dropped", "sign", "factor", "plate", "pair", "jacobian"],
)
def test_wrong_energies(term, node):
    with pytest.raises(ValueError, match=rf"change by .* nats when node '{node}' alone moves"):
        check_energy(changed(term), poisson_joint, RATES, KEY, COUNTS)


def test_a_scale_on_a_local_term():
    with pytest.raises(ValueError, match="node 'w' alone moves"):
        check_energy(lambda t, y: poisson(t, y, 2.0), poisson_joint, RATES, KEY, COUNTS)


def test_not_conjugate():
    """The same function of x, written with a product of statistics."""

    def energy(t, x):
        m = t["m"]
        return normal_gamma(t, x) + 0.1 * (m["x"] ** 2 - m["x2"])

    with pytest.raises(ValueError, match=r"linear in the statistics of node 'm'.*'x' and 'x'"):
        check_energy(energy, normal_gamma_joint, NODES, KEY, X)

    def inner(t, y):
        w = t["w"]
        return poisson(t, y) - jnp.sum(jnp.exp(w["log_x"]) - w["x"])

    with pytest.raises(ValueError, match=r"linear in the statistics of node 'w'.*'log_x'"):
        check_energy(inner, poisson_joint, RATES, KEY, COUNTS)


def test_coupled_elements_are_reported():
    def energy(t, y):
        x = t["w"]["x"]
        return poisson(t, y) - jnp.sum(x[1:] * x[:-1])

    def joint(v, y):
        return poisson_joint(v, y) - jnp.sum(v["w"][1:] * v["w"][:-1])

    report = check_energy(energy, joint, RATES, KEY, COUNTS)
    assert report.coupled == ("w",)
    assert "'w'" in str(report)
    assert "rho < 1" in str(report)


def test_arguments(without_type_checks):
    with pytest.raises(ValueError, match=r"log_joint\(x, \*args\) to return a scalar"):
        check_energy(poisson, lambda v, y: v["w"], RATES, KEY, COUNTS)
    with pytest.raises(ValueError, match=r"nodes\['w'\] to be an instance of Node"):
        check_energy(poisson, poisson_joint, {**RATES, "w": RATES["w"].q}, KEY, COUNTS)


def test_base_measures_are_counted():
    """A half-normal h: the energy leaves it to the family."""
    q = nd.Quadrature(nd.RectifiedGaussian())
    nodes = {"x": Node(q)}

    def energy(t):
        return t["x"]["x"] - t["x"]["x2"]

    def joint(v):
        return v["x"] - v["x"] ** 2 + q.family.log_base_measure(v["x"])

    assert abs(check_energy(energy, joint, nodes, KEY).constant) < 1e-9
