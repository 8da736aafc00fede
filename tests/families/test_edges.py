"""Declared edges of natural domains: membership, refusals, and what has no coordinates there."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import AdditiveCondition

import nnef_dists as nd
from tests.families.edges import HalfNormal, InverseGaussian, Quartic, WrongGamma

QUARTIC, INVERSE, HALF = Quartic(), InverseGaussian(), HalfNormal()
ON_EDGE = jnp.array([1.0, -1.0, 0.0])


@pytest.mark.parametrize(
    ("family", "eta", "valid"),
    [
        (QUARTIC, [3.0, 2.0, -1.0], True),
        (QUARTIC, [3.0, -2.0, 0.0], True),
        (QUARTIC, [3.0, -2.0, -0.0], True),
        (QUARTIC, [3.0, -2.0, -1e-30], True),
        (QUARTIC, [3.0, 2.0, -1e-30], True),
        (QUARTIC, [3.0, 2.0, 0.0], False),
        (QUARTIC, [3.0, 0.0, 0.0], False),
        (QUARTIC, [3.0, -2.0, 1e-9], False),
        (QUARTIC, [jnp.nan, -2.0, 0.0], False),
        (INVERSE, [0.5, -1.0, 0.0], True),
        (INVERSE, [-1.0, -1.0, 0.0], False),
        (INVERSE, [-1.5, 0.0, -1.0], True),
        (INVERSE, [-0.5, 0.0, -1.0], False),
        (INVERSE, [0.5, 0.0, 0.0], False),
        (HALF, [-1.0, 0.0], True),
        (HALF, [1.0, 0.0], False),
    ],
)
def test_membership(family, eta, valid, strict_promotion):
    eta = jnp.array(eta)
    assert bool(family.is_valid_eta(eta)) == valid
    assert bool(jnp.isfinite(jax.jit(family.check_eta)(eta)).all()) == valid
    if valid:
        assert np.array_equal(family.check_eta(eta), eta)


def test_messages_name_the_edge():
    message = r"'x4'.*negative or on the edge \(x4 = 0, x2 negative\); got 0.0"
    with pytest.raises(ValueError, match=message):
        QUARTIC.check_eta(jnp.array([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"'x'.*on the edge \(x = 0, log inside.*, inverse neg"):
        INVERSE.check_eta(jnp.array([0.0, 1.0, -1.0]))


@pytest.mark.parametrize("method", ["unconstrain_eta", "convex_features"])
def test_an_edge_has_no_coordinates(method):
    with pytest.raises(ValueError, match=r"edges \(x4 = 0, x2 negative\) have no unconstrained"):
        getattr(QUARTIC, method)(ON_EDGE)
    assert jnp.isnan(jax.jit(getattr(QUARTIC, method))(ON_EDGE)).all()
    assert jnp.isfinite(getattr(QUARTIC, method)(ON_EDGE.at[2].set(-1e-8))).all()


def test_networks_and_flows_refuse_labels_on_an_edge():
    etas = QUARTIC.sample_eta(
        jax.random.key(0), 12, {"x": (-1, 1), "x2": (-1, 1), "x4": (-1, -0.5)}
    )
    etas = etas.at[3].set(ON_EDGE)
    data = nd.estimate_moments(QUARTIC, etas, jax.random.key(1), nd.HMCConfig(draws=100)).only_ok()
    assert 0.0 in data.eta[:, 2]
    with pytest.raises(ValueError, match="Expected eta inside the open natural domain"):
        nd.LogPartitionNetwork(QUARTIC, data, width=4, depth=1, key=jax.random.key(2))
    with pytest.raises(ValueError, match="Expected eta inside the open natural domain"):
        nd.flows.ConditionalFlow(QUARTIC, AdditiveCondition(jnp.sum, (), (3,)), etas)


def test_ranges_draw_from_the_open_domain():
    etas = INVERSE.sample_eta(
        jax.random.key(0), 8, {"log": (-1, 1), "x": (-2, -1), "inverse": (-2, -1)}
    )
    assert (etas[:, 1:] < 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nd.edge(x2=nd.negative), "an edge with a fixed part"),
        (lambda: nd.edge(x4="zero"), "x4 as"),
        (lambda: nd.edge(x4=math.inf), "x4"),
        (lambda: _with(nd.edge(x3=0.0)), "fixes some of the statistics"),
        (lambda: _with(nd.edge(x=0.0, x2=0.0, x4=0.0)), "fixes some of the statistics"),
        (lambda: _with(nd.edge(x4=0.0, y=nd.negative)), "'y'"),
        (lambda: _with(nd.edge(x4=-1.0)), "inside of it or apart"),
        (lambda: _with(nd.edge(x4=1.0)), "inside of it or apart"),
        (lambda: _with(nd.edge(x2=0.0)), "inside of it or apart"),
    ],
)
def test_what_is_no_edge_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _with(edge):
    members = {"x_shape": (), "natural_domain": nd.domain(x4=nd.negative) | edge}
    members["compute_stats"] = lambda self, x: {"x": x, "x2": x**2, "x4": x**4}
    return type("Mine", (nd.ExponentialFamily,), members)()


def test_edges_of_half_spaces():
    shapes = {"a": (), "b": ()}
    domain = nd.half_space([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]) | nd.edge(a=0.0, b=nd.negative)
    domain.check_statistics(shapes)
    for a, b, valid in [
        (0.0, -1.0, True),
        (-1.0, -1.0, True),
        (0.0, 0.0, False),
        (0.0, 1.0, False),
    ]:
        assert bool(domain.contains({"a": jnp.array(a), "b": jnp.array(b)})["eta"]) == valid
    assert "on the edge (a = 0, b negative)" in domain.expectation("eta")
    slope = nd.half_space([1.0, 1.0], 0.0) | nd.edge(a=0.0, b=nd.interval(1.0, 2.0))
    with pytest.raises(ValueError, match="inside of it or apart"):
        slope.check_statistics(shapes)


def test_a_family_whose_density_on_the_edge_is_integrable_has_no_findings():
    ranges = {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.2, "log")}
    assert nd.check_family(QUARTIC, ranges, jax.random.key(0)).ok


def test_an_edge_where_nothing_is_integrable_is_found():
    ranges = {"log": (0.5, 2.0), "x": (-2.0, -0.5)}
    report = nd.check_family(WrongGamma(), ranges, jax.random.key(0))
    found = [finding for finding in report.findings if finding.name == "not integrable"]
    assert not report.ok
    assert found
    assert found[0].eta[1] == 0
