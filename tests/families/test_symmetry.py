"""Symmetries of families: closure, canonical etas, and refusals by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import Exp

import nnef_dists as nd
from nnef_dists.families import LocationScale, Permutation, Scaling, SignFlip, check_symmetry
from nnef_dists.families import transformation as transform
from tests.families.edges import InverseGaussian

FULL = nd.Polynomial1D((1, 2, 3, 4))
EVEN = nd.Polynomial1D((1, 2, 4))

SHIPPED = {
    "scale of a quartic": (EVEN, Scaling(x4=4)),
    "location and scale of a quartic": (FULL, LocationScale()),
    "location and scale of a Gaussian": (nd.GaussianNatural1D(), LocationScale()),
    "scale of a gamma": (nd.Gamma(), Scaling(x=1)),
    "scale of a rectified Gaussian": (nd.RectifiedGaussian(), Scaling(x2=2)),
    "sign of a quartic": (FULL, SignFlip("x")),
    "sign of a lattice": (nd.LatticePhi4(4), SignFlip("x")),
    "permutations of a Dirichlet": (nd.Dirichlet(4), Permutation("log_x", 4)),
    "permutations of its prior": (nd.DirichletPrior(3), Permutation("alpha", 3)),
    "permutations of a Laplace product": (nd.LaplaceProduct(3), Permutation("minus", 3)),
}
CLOSED = SHIPPED | {
    "scale of an inverse Gaussian": (InverseGaussian(), Scaling(x=1, inverse=-1)),
}
ETAS = {
    "scale of a quartic": [3e5, -2e4, -7e-3],
    "location and scale of a quartic": [3.0, 20.0, -4.0, -0.7],
    "location and scale of a Gaussian": [300.0, -7e-3],
    "scale of a gamma": [2.0, -3e6],
    "scale of an inverse Gaussian": [0.5, -2e-6, -3e6],
    "sign of a quartic": [-3.0, 2.0, 0.4, -0.7],
    "permutations of a Dirichlet": [3.0, -0.5, 1.0, 0.2],
    "permutations of its prior": [-3.0, -1.0, -2.0, -1.2],
    "scale of a rectified Gaussian": [-300.0, -7e-3],
    "sign of a lattice": [-0.3, -0.5, -0.4, 0.3],
    "permutations of a Laplace product": [1.5, 0.4, 0.7, 1.0, 0.2, -0.1],
}
each = pytest.mark.parametrize("name", CLOSED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_families_declare_their_symmetries(name):
    family, symmetry = SHIPPED[name]
    assert symmetry in family.symmetries


def test_a_family_declares_no_symmetry_that_its_powers_lack():
    assert nd.GaussianNatural1D().symmetries == nd.Polynomial1D((1, 2)).symmetries
    assert nd.Polynomial1D((2, 4)).symmetries == (Scaling(x4=4),)
    assert nd.Polynomial1D((1, 3, 4)).symmetries == (SignFlip("x"), Scaling(x4=4))
    assert nd.LaplaceProduct(1).symmetries == ()
    assert nd.GammaShapePrior().symmetries == ()


@each
def test_statistics_are_closed_to_rounding(name):
    assert check_symmetry(*CLOSED[name]) < 3e-13


@each
def test_canonical_etas_are_those_of_their_own_frame(name):
    family, symmetry = CLOSED[name]
    with jax.enable_x64(True):
        eta = jnp.array(ETAS[name])
        frame = symmetry.frame(family, eta)
        canonical = transform(family, symmetry, frame, jnp.float64).matrix.T @ eta
        assert family.is_valid_eta(canonical)
        again = symmetry.frame(family, canonical)
        back = transform(family, symmetry, again, jnp.float64).matrix.T @ canonical
        assert np.allclose(back, canonical, rtol=1e-9, atol=1e-9)
        moved = transform(
            family, symmetry, symmetry.random(jax.random.key(5), family, float), float
        )
        other = jnp.linalg.solve(moved.matrix.T, eta)
        frame = symmetry.frame(family, other)
        same = transform(family, symmetry, frame, jnp.float64).matrix.T @ other
        assert np.allclose(same, canonical, rtol=1e-8, atol=1e-8)


class TwoScales(nd.ExponentialFamily):
    """x + exp(-x) is not closed under scale."""

    x_shape = ()
    natural_domain = nd.domain(x=nd.negative, e=nd.negative)

    @property
    def support(self):
        return Exp()

    def compute_stats(self, x):
        return {"x": x, "e": jnp.exp(-x)}


class WrongDeterminant(nd.families.AbstractSymmetry):
    """Scale, whose declared determinant is that of two dimensions."""

    def act(self, g, z):
        return jnp.exp(g) * z

    def log_det(self, g):
        return 2 * g

    def frame(self, family, eta):
        return jnp.zeros(())

    def random(self, key, family, dtype):
        return jax.random.normal(key, (), dtype)


class Weighted(nd.ExponentialFamily):
    """A base measure that is not homogeneous."""

    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)

    def compute_stats(self, x):
        return {"x2": x**2}

    def log_base_measure(self, x):
        return -jnp.log1p(x**2)


@pytest.mark.parametrize(
    ("family", "symmetry", "message"),
    [
        (EVEN, LocationScale(), "misfit of .* standard deviations of 'x4'.*Add the statistics"),
        (TwoScales(), Scaling(x=1), "misfit of .* standard deviations of 'e'"),
        (nd.GammaShapePrior(), Scaling(alpha=1), "misfit"),
        (EVEN, WrongDeterminant(), "log_det of WrongDeterminant.*as the log-determinant of act"),
        (Weighted(), Scaling(x2=2), "base measure.*changes by a constant"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_symmetries_are_refused_by_name(family, symmetry, message):
    with pytest.raises(ValueError, match=message):
        check_symmetry(family, symmetry)


@pytest.mark.parametrize(
    "make", [lambda: Scaling(), lambda: Scaling(x=0), lambda: Scaling(x=np.nan)]
)
def test_scalings_need_powers(make):
    with pytest.raises(ValueError, match=r"powers by statistic|finite x"):
        make()


def test_permutations_need_two_entries():
    with pytest.raises(ValueError, match="k >= 2"):
        Permutation("log_x", 1)
