"""check_energy accepts right energies, and refuses wrong ones by the name of the node."""

import jax
import jax.numpy as jnp
import pytest

import nnef_dists as nd
from nnef_dists.inference import Node, check_energy
from tests.inference.test_coordinate_ascent import (
    COUNTS,
    GAUSSIAN,
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


def with_term(term):
    """The Poisson energy with one more term."""
    return lambda t, y: poisson(t, y) + term(t["w"], t["b"], y)


def swapped(t, y):
    """The prior of w with the roles of w and b exchanged."""
    w, b = t["w"], t["b"]
    local = y * w["log_x"] - w["x"] + 2 * w["log_x"] + b["log_x"] - b["x"] * w["x"]
    return jnp.sum(local) + 2 * b["log_x"] - b["x"]


# Eight mistakes, and the nodes that the error has to name, and no others.
VARIES = {
    "dropped term": (with_term(lambda w, b, y: b["x"]), ["b"]),
    "sign": (with_term(lambda w, b, y: -4 * b["log_x"]), ["b"]),
    "factor of a pair": (with_term(lambda w, b, y: b["x"] * jnp.sum(w["x"])), ["w", "b"]),
    "plate": (with_term(lambda w, b, y: -2 * (y.size - len(y)) * b["log_x"]), ["b"]),
    "jacobian": (with_term(lambda w, b, y: -jnp.sum(w["log_x"])), ["w"]),
    "scale of local terms": (lambda t, y: poisson(t, y, 2.0), ["w", "b"]),
    "data count": (with_term(lambda w, b, y: jnp.sum(w["log_x"][0, 0])), ["w"]),
    "swapped nodes": (swapped, ["w", "b"]),
}
# Two more that are the same function of x, with the statistics whose product they have.
NOT_LINEAR = {
    "not conjugate": (
        with_term(lambda w, b, y: jnp.sum(jnp.exp(w["log_x"]) - w["x"])),
        "node 'w'.*curved in its statistic 'log_x'",
    ),
    "quadratic": (
        with_term(lambda w, b, y: b["log_x"] * (b["log_x"] - jnp.log(b["x"]))),
        "node 'b'.*('log_x' and 'x'|curved in its statistic 'log_x')",
    ),
}


@pytest.mark.parametrize("mistake", [*VARIES, *NOT_LINEAR])
def test_planted_errors(mistake):
    if mistake in NOT_LINEAR:
        energy, message = NOT_LINEAR[mistake]
        with pytest.raises(ValueError, match=f"linear in the statistics of {message}"):
            check_energy(energy, poisson_joint, RATES, KEY, COUNTS)
        return
    energy, wrong = VARIES[mistake]
    with pytest.raises(ValueError, match="to be constant; got a change by") as error:
        check_energy(energy, poisson_joint, RATES, KEY, COUNTS)
    for name in RATES:
        assert (f"nats when node '{name}' alone moves" in str(error.value)) == (name in wrong), name


def test_a_constant_is_in_the_report():
    """A mistake here cannot be told from a constant that was left out."""
    energy = with_term(lambda w, b, y: jnp.sum(y))
    report = check_energy(energy, poisson_joint, RATES, KEY, COUNTS)
    assert abs(report.constant - float(jnp.sum(COUNTS))) < 1e-9
    assert "+17 nats" in str(report)


def test_a_product_of_own_statistics():
    def energy(t, x):
        m = t["m"]
        return normal_gamma(t, x) + 0.1 * (m["x"] ** 2 - m["x2"])

    with pytest.raises(ValueError, match=r"linear in the statistics of node 'm'.*curved.*'x'"):
        check_energy(energy, normal_gamma_joint, NODES, KEY, X)


def test_squares_of_sums_are_found_with_any_key():
    """A direction of signs would be orthogonal to (1, 1) half of the time."""
    nodes = {"w": Node(nd.ClosedForm(nd.MultivariateNormal(2)))}

    def energy(t):
        return -0.5 * (1.5 - jnp.sum(t["w"]["x"])) ** 2 - 0.5 * jnp.trace(t["w"]["xxT"])

    def joint(v):
        return -0.5 * (1.5 - jnp.sum(v["w"])) ** 2 - 0.5 * jnp.sum(v["w"] ** 2)

    for seed in (7, 8):
        with pytest.raises(ValueError, match=r"linear in the statistics of node 'w'"):
            check_energy(energy, joint, nodes, jax.random.key(seed))


def test_a_term_that_is_small_beside_many_data():
    nodes = {"m": Node(nd.ClosedForm(GAUSSIAN))}
    data = 1e8, 3e7, 1.1e8

    def energy(t, n, total, squares):
        return total * t["m"]["x"] - n / 2 * t["m"]["x2"] - squares / 2

    def joint(v, n, total, squares):
        return total * v["m"] - n / 2 * v["m"] ** 2 - squares / 2

    assert check_energy(energy, joint, nodes, KEY, *data).constant == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"when node 'm' alone moves.*rounded to float32"):
        check_energy(energy, lambda v, *n: joint(v, *n) - v["m"] ** 2 / 2, nodes, KEY, *data)
    with pytest.raises(ValueError, match=r"linear in the statistics of node 'm'.*curved.*'x'"):
        check_energy(
            lambda t, *n: energy(t, *n) - t["m"]["x"] ** 2 / 2,
            lambda v, *n: joint(v, *n) - v["m"] ** 2 / 2,
            nodes,
            KEY,
            *data,
        )


def test_coupled_elements_are_reported():
    """The energy is right, but a full step of all elements is no ascent."""

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
    with pytest.raises(ValueError, match=r"node, one of \['b', 'w'\]; got 'v'"):
        check_energy(poisson, lambda v, y: v["v"], RATES, KEY, COUNTS)
    # A dict of the user's own has its own error.
    with pytest.raises(KeyError, match="rows"):
        check_energy(lambda t, y: y["rows"], lambda v, y: 0.0, RATES, KEY, {"y": COUNTS})
    with pytest.raises(ValueError, match=r"log_joint\(x, \*args\) to return a scalar"):
        check_energy(poisson, lambda v, y: v["w"], RATES, KEY, COUNTS)
    with pytest.raises(ValueError, match=r"nodes\['w'\] to be an instance of Node"):
        check_energy(poisson, poisson_joint, {**RATES, "w": RATES["w"].q}, KEY, COUNTS)


class Unsupported(nd.ExponentialFamily):
    """A gamma distribution whose support nobody has declared."""

    x_shape = ()
    natural_domain = nd.domain(log_x=nd.interval(-1.0, jnp.inf), x=nd.negative)

    def compute_stats(self, x):
        return {"log_x": jnp.log(x), "x": x}


def test_a_support_that_is_missing():
    nodes = {"b": Node(nd.Quadrature(Unsupported()))}
    with pytest.raises(ValueError, match=r"finite at points of the supports.*support = Exp\(\)"):
        check_energy(
            lambda t: t["b"]["log_x"] - t["b"]["x"], lambda v: jnp.log(v["b"]) - v["b"], nodes, KEY
        )


def test_base_measures_are_counted():
    """A half-normal h: the energy leaves it to the family."""
    q = nd.Quadrature(nd.RectifiedGaussian())
    nodes = {"x": Node(q)}

    def energy(t):
        return t["x"]["x"] - t["x"]["x2"]

    def joint(v):
        return v["x"] - v["x"] ** 2 + q.family.log_base_measure(v["x"])

    assert abs(check_energy(energy, joint, nodes, KEY).constant) < 1e-9
