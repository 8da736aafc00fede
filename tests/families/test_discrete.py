"""Families with a discrete support: what they declare, and who refuses them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import Exp

import nnef_dists as nd
from nnef_dists.families import AbstractDiscreteSupport, support_point
from tests.registry import DISCRETE

SUPPORTS = (
    nd.Counts(),
    nd.Counts(3),
    nd.Counts(1, 6),
    nd.Spins((2, 3)),
    nd.families.Bits(4),
    nd.families.Categories(5, (3,)),
)
KEY = jax.random.key(0)


class Counted(nd.ExponentialFamily):
    """Any statistics on any discrete support."""

    points: AbstractDiscreteSupport
    x_shape: tuple[int, ...] = ()

    natural_domain = nd.domain()

    @property
    def support(self):
        return self.points

    def compute_stats(self, x):
        return {"x": jnp.sum(x).astype(float)}


class TestSupports:
    @pytest.mark.parametrize("support", SUPPORTS, ids=repr)
    def test_random_points_are_points_of_all_kinds(self, support):
        family = Counted(support, support.shape)
        u = jax.random.normal(KEY, (400, *support.shape))
        x = jax.vmap(lambda u: support_point(family, u))(u)
        assert jax.vmap(support.contains)(x).all()
        if support.values is not None:
            assert set(np.unique(x)) == set(support.values)

    @pytest.mark.parametrize(
        ("support", "x"),
        [
            (nd.Counts(), -1),
            (nd.Counts(), 0.5),
            (nd.Counts(2), 1),
            (nd.Counts(0, 4), 5),
            (nd.Spins((2,)), [0, 1]),
            (nd.families.Bits((2,)), [-1, 1]),
            (nd.families.Categories(3), 3),
        ],
    )
    def test_other_points_have_no_probability(self, support, x):
        family = Counted(support, support.shape)
        assert not support.contains(jnp.asarray(x))
        assert family.unnormalized_logdensity(jnp.ones(1), jnp.asarray(x)) == -jnp.inf

    def test_numbers_of_states(self):
        assert nd.Counts().log2_states == math.inf
        assert nd.Counts(1, 8).log2_states == 3
        assert nd.Spins((2, 3)).log2_states == 6
        assert nd.families.Categories(4, (3,)).log2_states == 6

    def test_bounds_and_shapes_are_checked(self):
        with pytest.raises(ValueError, match="upper >= 3"):
            nd.Counts(2, 2)
        with pytest.raises(ValueError, match="lower >= 0"):
            nd.Counts(-1)
        with pytest.raises(ValueError, match="k >= 2"):
            nd.families.Categories(1)
        with pytest.raises(ValueError, match=r"shape of x, \(3,\)"):
            Counted(nd.families.Bits((2,)), (3,))


class TestStatistics:
    @pytest.mark.parametrize("case", DISCRETE, ids=str)
    def test_integers_and_floats_are_the_same_point(self, case):
        family = case.make()
        x = support_point(family, jax.random.normal(KEY, family.x_shape))
        one, two = (family.sufficient_statistics(x.astype(t)) for t in (int, float))
        assert one.dtype == two.dtype == jnp.result_type(float)
        assert jnp.array_equal(one, two)

    def test_ising_sums_over_bonds(self):
        x = np.asarray(jax.random.rademacher(KEY, (3, 4), float))
        free = {"x": x.sum(), "neighbors": (x[1:] * x[:-1]).sum() + (x[:, 1:] * x[:, :-1]).sum()}
        ends = (x[0] * x[-1]).sum() + (x[:, 0] * x[:, -1]).sum()
        found = nd.families.Ising((3, 4)).compute_stats(jnp.asarray(x))
        assert {name: float(value) for name, value in found.items()} == free
        found = nd.families.Ising((3, 4), periodic=True).compute_stats(jnp.asarray(x))
        assert float(found["neighbors"]) == free["neighbors"] + ends

    def test_graph_statistics_count_subgraphs(self):
        family = nd.families.ExponentialRandomGraph(
            7, ("edges", "two_stars", "triangles", "shared_partners"), decay=0.7
        )
        x = jax.random.bernoulli(KEY, 0.5, family.x_shape).astype(float)
        matrix = np.asarray(family.adjacency(x))
        nodes = range(7)
        two_stars = sum(
            matrix[i, j] * matrix[i, k] for i in nodes for j, k in itertools.combinations(nodes, 2)
        )
        triangles = sum(
            matrix[i, j] * matrix[j, k] * matrix[i, k]
            for i, j, k in itertools.combinations(nodes, 3)
        )
        partners = sum(
            matrix[i, j] * math.exp(0.7) * (1 - (1 - math.exp(-0.7)) ** (matrix[i] @ matrix[j]))
            for i, j in itertools.combinations(nodes, 2)
        )
        expected = [matrix.sum() / 2, two_stars, triangles, partners]
        np.testing.assert_allclose(family.sufficient_statistics(x), expected, rtol=1e-6)
        assert jnp.array_equal(family.from_adjacency(matrix), x)

    def test_a_graph_is_symmetric(self):
        family = nd.families.ExponentialRandomGraph(3)
        for matrix in (np.eye(3), np.triu(np.ones((3, 3)), 1), np.zeros((2, 2))):
            with pytest.raises(ValueError, match="symmetric matrix"):
                family.from_adjacency(matrix)
        with pytest.raises(ValueError, match="different statistics"):
            nd.families.ExponentialRandomGraph(4, ("edges", "squares"))

    def test_statistics_of_a_users_own(self):
        class Within(nd.families.AbstractRandomGraph):
            nodes = 4
            group = (0, 0, 1, 1)

            def graph_statistics(self, adjacency):
                group = jnp.asarray(self.group)
                same = group[:, None] == group
                return {"edges": adjacency.sum() / 2, "within": (adjacency * same).sum() / 2}

        family = Within()
        complete = family.sufficient_statistics(jnp.ones(6))
        assert complete.tolist() == [6, 2]


@pytest.mark.parametrize("x", [np.nan, 3.0, -1.0, 1.7])
def test_what_is_not_a_category_has_no_statistics(x):
    """A missing value is not the first category."""
    family = nd.families.Categorical(3)
    with pytest.raises(ValueError, match=r"among 0, \.\.\., 2; got .*Leave out missing values"):
        family.sufficient_statistics(jnp.array(x))
    stats = jax.jit(jax.vmap(family.sufficient_statistics))(jnp.array([0.0, 1.0, 2.0, x]))
    np.testing.assert_array_equal(stats[:3], family_rows(family))
    assert np.isnan(stats[3]).all()


def family_rows(family):
    return np.stack([family.sufficient_statistics(jnp.array(i)) for i in range(3)])


class TestRefusals:
    """Who needs derivatives in x says so, and what to use."""

    @pytest.mark.parametrize(
        "use",
        [
            lambda f: nd.Quadrature(f),
            lambda f: nd.quadrature_moments(f, jnp.zeros(f.eta_dim)),
            lambda f: nd.moments.sample_hmc(KEY, f, -jnp.ones(f.eta_dim), 10),
            lambda f: nd.networks.LaplaceBase(f)(-jnp.ones(f.eta_dim)),
            lambda f: nd.flows.ConditionalFlow(f, Exp(), jnp.zeros((2, f.eta_dim))),
        ],
        ids=["Quadrature", "quadrature_moments", "sample_hmc", "LaplaceBase", "ConditionalFlow"],
    )
    @pytest.mark.parametrize(
        ("family", "remedy"),
        [(nd.families.Poisson(), "nd.Summation"), (nd.families.Ising((2, 2)), "nd.Enumeration")],
        ids=["counts", "spins"],
    )
    def test_a_discrete_support_is_refused_by_name(self, use, family, remedy):
        with pytest.raises(ValueError, match="continuous x") as error:
            use(family)
        assert remedy in str(error.value)
        assert repr(family) in str(error.value)


class TestCheckFamily:
    @pytest.mark.parametrize("case", DISCRETE, ids=str)
    def test_shipped_families_pass(self, case):
        report = nd.check_family(case.make(), case.ranges, KEY)
        assert report.ok, report

    def test_faults_are_found(self):
        class Faulty(nd.ExponentialFamily):
            kind: str
            x_shape = ()
            natural_domain = nd.domain()

            @property
            def support(self):
                return nd.Counts()

            def compute_stats(self, x):
                if self.kind == "log":
                    return {"log_x": jnp.log(x)}
                return {"x": x, "again": 2 * x} if self.kind == "twice" else {"x": x}

        def names(kind, **ranges):
            return {f.name for f in nd.check_family(Faulty(kind), ranges, KEY).errors}

        assert names("log", log_x=(-3.0, -2.0)) == {"not finite"}
        assert "overcomplete" in names("twice", x=(-3.0, -2.0), again=(-3.0, -2.0))
        # Geometric: the sum diverges for x >= 0, which the domain does not say.
        assert names("plain", x=(-1.0, -0.5)) == {"not normalizable"}

    def test_a_wrong_formula_is_found(self):
        class Wrong(nd.families.AbstractNamedFamily):
            x_shape = ()
            natural_domain = nd.domain()

            @property
            def support(self):
                return nd.Counts(0, 4)

            def compute_stats(self, x):
                return {"x": x}

            def log_partition(self, eta):
                return jnp.log(5.0) + 2 * eta[0]

            def mean(self, eta):
                return jnp.full(1, 2.0)

        report = nd.check_family(Wrong(), {"x": (-1.0, 1.0)}, KEY)
        assert {f.name for f in report.errors} == {"closed form"}
