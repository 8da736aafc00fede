"""check_family on families as strangers would bring them: each fault is named, none is invented."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import AbstractBijection, Exp, Sigmoid

import nnef_dists as nd
from tests.registry import FAMILIES

KEY = jax.random.key(3)
INF = math.inf

# The rest compile larger programs.
QUICK = {"Beta", "Polynomial1D"}


def family(stats, domain=None, x_shape=(), base=nd.ExponentialFamily, **members):
    """A stranger's family, from its statistics; `members` are methods and properties."""
    members["x_shape"] = x_shape
    members["natural_domain"] = nd.domain() if domain is None else domain
    members["compute_stats"] = lambda self, x: stats(x)
    return type("Stranger", (base,), members)()


def check(family, ranges):
    report = nd.check_family(family, ranges, KEY)
    text = repr(report)
    assert report.ok == (not report.errors)
    for finding in report.findings:
        assert finding.message in text
        assert finding.remedy in text
    return report


def named(report, severity):
    return {f.name for f in report.findings if f.severity == severity}


def the(report, name):
    found = [f for f in report.findings if f.name == name]
    assert len(found) == 1, report
    return found[0]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=() if c.name in QUICK else pytest.mark.slow, id=c.name)
        for c in FAMILIES
    ],
)
def test_no_findings_on_the_families_of_the_package(case):
    report = check(case.make(), case.ranges)
    assert report.findings == (), report


# --------------------------------------------------------------------------- T is not finite


def test_a_logarithm_without_a_support():
    stranger = family(
        lambda x: {"log": jnp.log(x), "x3": x**3},
        nd.domain(log=nd.interval(-1.0, INF), x3=nd.negative),
    )
    report = check(stranger, {"log": (0.5, 4), "x3": (-3, -0.1, "log")})
    found = the(report, "not finite")
    assert found.severity == "error"
    assert "T['log'] is NaN for x < 0" in found.message
    assert "flowjax.bijections.Exp()" in found.remedy
    assert found.x < 0
    assert found.eta.shape == (2,)


@pytest.mark.slow
def test_a_unit_interval_without_a_support():
    stranger = family(
        lambda x: {"a": jnp.log(x), "b": jnp.log1p(-x)},
        nd.domain(a=nd.interval(-1.0, INF), b=nd.interval(-1.0, INF)),
    )
    found = the(check(stranger, {"a": (0.1, 3), "b": (0.1, 3)}), "not finite")
    assert "outside (0, 1)" in found.message
    assert "Sigmoid()" in found.remedy


@pytest.mark.slow
def test_one_entry_without_a_support():
    stranger = family(
        lambda x: {"log": jnp.log(x[1]), "s": x[1], "q": x[0] ** 2 * x[1]},
        nd.domain(log=nd.interval(0.0, INF), s=nd.negative, q=nd.negative),
        (2,),
    )
    found = the(check(stranger, {"log": (1, 4), "s": (-3, -1), "q": (-3, -1)}), "not finite")
    assert "for x[1] < 0" in found.message


@pytest.mark.slow
def test_a_base_measure_that_is_nan():
    stranger = family(
        lambda x: {"x2": x**2},
        nd.domain(x2=nd.negative),
        log_base_measure=lambda self, x: jnp.log(-1 - x**2),
    )
    assert "log h is NaN" in the(check(stranger, {"x2": (-2, -0.3)}), "not finite").message


# --------------------------------------------------------------------------- integrability, tails


def student(domain):
    return family(lambda x: {"t": jnp.log1p(x**2)}, domain)


def test_heavy_tails_and_their_index():
    """Student's t with nu degrees of freedom has eta = -(nu + 1) / 2 and P(|x| > r) ~ r^-nu."""
    report = check(student(nd.domain(t=nd.interval(-INF, -0.5))), {"t": (-3, -0.6)})
    assert report.ok
    found = the(report, "heavy tail")
    assert found.severity == "warning"
    assert "P(|u| > r) like r^-0.2" in found.message
    np.testing.assert_allclose(found.eta, -0.6, rtol=1e-6)


def test_a_domain_declared_too_wide():
    report = check(student(nd.domain(t=nd.negative)), {"t": (-3, -0.1)})
    found = the(report, "not integrable")
    assert found.severity == "error"
    np.testing.assert_allclose(found.eta, -0.1, rtol=1e-6)  # a corner of the ranges
    assert "mass per log radius goes like r^0.8" in found.message
    assert "natural_domain" in found.remedy


@pytest.mark.slow
def test_a_domain_that_is_too_wide_beyond_the_ranges():
    report = check(student(nd.domain(t=nd.negative)), {"t": (-3, -0.7)})
    assert report.ok
    found = the(report, "not integrable")
    assert found.severity == "warning"
    assert found.eta > -0.5


@pytest.mark.slow
def test_a_gamma_that_is_not_integrable_at_zero():
    stranger = family(
        lambda x: {"log": jnp.log(x), "x": x}, nd.domain(x=nd.negative), support=Exp()
    )
    report = check(stranger, {"log": (-1.5, 3), "x": (-3, -0.3)})
    found = the(report, "not integrable")
    assert found.severity == "error"
    assert found.eta[0] < -1


@pytest.mark.slow
def test_a_cube_on_the_line():
    report = check(family(lambda x: {"x3": x**3}), {"x3": (-1, 1)})
    found = the(report, "not integrable")
    assert "even power" in found.remedy


def test_a_ridge_that_does_not_decay():
    stranger = family(
        lambda x: {"p": ((x[0] - 2 * x[1]) * (x[0] + 3 * x[1])) ** 2},
        nd.domain(p=nd.negative),
        (2,),
    )
    found = the(check(stranger, {"p": (-2, -0.5)}), "not integrable")
    assert "is constant along" in found.message


@pytest.mark.slow
def test_a_ridge_along_an_axis():
    stranger = family(lambda x: {"p": (x[0] * x[1]) ** 2}, nd.domain(p=nd.negative), (2,))
    found = the(check(stranger, {"p": (-2, -0.5)}), "not integrable")
    assert "is constant along" in found.message


@pytest.mark.slow
def test_a_ridge_that_narrows_has_a_finite_mass():
    """The integral of exp(-x^2 (1 + y^4)) over x falls like y^-2."""
    stranger = family(lambda x: {"p": x[0] ** 2 * (1 + x[1] ** 4)}, nd.domain(p=nd.negative), (2,))
    report = check(stranger, {"p": (-2, -0.5)})
    assert report.ok, report
    assert "like r^-1 " in the(report, "heavy tail").message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stats", "domain", "x_shape", "support", "ranges"),
    [
        (
            lambda x: {"a": x[0] ** 2, "b": (x[1] - x[0] ** 2) ** 2},
            nd.domain(a=nd.negative, b=nd.negative),
            (2,),
            None,
            {"a": (-2, -0.1), "b": (-20, -1)},
        ),
        (
            lambda x: {"log": jnp.log(x), "x": x, "inverse": 1 / x},
            nd.domain(x=nd.negative, inverse=nd.negative),
            (),
            Exp(),
            {"log": (-3, 3), "x": (-10, -0.1, "log"), "inverse": (-10, -0.1, "log")},
        ),
        (
            lambda x: {"a": x, "b": (x**2 - 100.0) ** 2},
            nd.domain(b=nd.negative),
            (),
            None,
            {"a": (-0.1, 0.1), "b": (-1, -0.01, "log")},
        ),
        (
            lambda x: {"x": x, "x4": jnp.sum(x**4), "n": jnp.sum(x[1:] * x[:-1])},
            nd.domain(x4=nd.negative),
            (10,),
            None,
            {"x": (-1, 1), "x4": (-2, -0.2), "n": (-1, 1)},
        ),
    ],
    ids=["banana", "inverse Gaussian", "far modes", "ten dimensions"],
)
def test_no_findings_on_sound_strangers(stats, domain, x_shape, support, ranges):
    members = {} if support is None else {"support": support}
    report = check(family(stats, domain, x_shape, **members), ranges)
    assert report.findings == (), report


# --------------------------------------------------------------------------- kinks, jumps, edges


def test_an_undeclared_kink():
    stats, domain = lambda x: {"x": x, "abs": jnp.abs(x)}, nd.domain(abs=nd.interval(-INF, -1.0))
    ranges = {"x": (-0.5, 0.5), "abs": (-3, -1.2)}
    found = the(check(family(stats, domain), ranges), "kink")
    assert found.severity == "error"
    assert "T['abs']" in found.message
    assert "T['x']" not in found.message
    assert abs(found.x) < 1e-6
    assert "is_smooth" in found.remedy


@pytest.mark.slow
def test_a_declared_kink_and_a_jump():
    stats, domain = lambda x: {"x": x, "abs": jnp.abs(x)}, nd.domain(abs=nd.interval(-INF, -1.0))
    ranges = {"x": (-0.5, 0.5), "abs": (-3, -1.2)}
    declared = family(stats, domain, is_smooth=False)
    assert "kink" not in named(check(declared, ranges), "error")
    floor = family(lambda x: {"x2": x**2, "f": jnp.floor(x)}, nd.domain(x2=nd.negative))
    found = the(check(floor, {"x2": (-1, -0.2), "f": (-0.5, 0.5)}), "discontinuity")
    np.testing.assert_allclose(found.x, np.round(found.x), atol=1e-6)


@pytest.mark.slow
def test_hard_edges():
    box = family(
        lambda x: {"x": x},
        log_base_measure=lambda self, x: jnp.where((x > 0) & (x < 1), 0.0, -INF).astype(x.dtype),
    )
    report = check(box, {"x": (-3, 3)})
    assert named(report, "warning") == {"hard edge", "base measure"}
    assert report.ok


# --------------------------------------------------------------------------- statistics


def test_cancellation():
    """A mean of 100 with a standard deviation of 0.01."""
    stranger = family(lambda x: {"x": x, "x2": x**2}, nd.domain(x2=nd.negative))
    report = check(stranger, {"x": (0.99e6, 1.01e6), "x2": (-5100, -4900)})
    found = the(report, "cancellation")
    assert found.severity == "warning"
    assert 90 < found.x < 110
    assert "center and scale x" in found.remedy


def test_linear_dependence():
    stranger = family(
        lambda x: {"x": x, "x2": x**2, "sum": 1 + x - 2 * x**2}, nd.domain(x2=nd.negative)
    )
    report = check(stranger, {"x": (-1, 1), "x2": (-4, -3), "sum": (-0.5, 0.5)})
    found = the(report, "overcomplete")
    assert "T['x'] - 2 T['x2'] - T['sum'] = -1" in found.message


@pytest.mark.slow
def test_a_constant_statistic():
    constant = family(lambda x: {"x2": x**2, "one": 1 + 0 * x}, nd.domain(x2=nd.negative))
    found = the(check(constant, {"x2": (-2, -1), "one": (-1, 1)}), "overcomplete")
    assert "T['one'] is constant: 1" in found.message


# --------------------------------------------------------------------------- closed forms


class Rate(nd.families.AbstractNamedFamily):
    """The exponential distribution, with mistakes."""

    mean_factor: float = 1.0
    constant: float = 0.0
    x_shape = ()
    natural_domain = nd.domain(x=nd.negative)
    support = Exp()

    def compute_stats(self, x):
        return {"x": x}

    def log_partition(self, eta):
        return self.constant - jnp.log(-eta[0])

    def mean(self, eta):
        return -self.mean_factor / eta


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({}, None, marks=pytest.mark.slow),
        ({"mean_factor": 1.5}, "the gradient of log_partition"),
        pytest.param({"constant": 0.5}, "log_partition is", marks=pytest.mark.slow),
    ],
)
def test_closed_forms(arguments, message):
    report = check(Rate(**arguments), {"x": (-3, -0.3)})
    if message is None:
        assert report.findings == (), report
    else:
        assert named(report, "error") == {"closed form"}
        assert any(message in f.message for f in report.findings)


# --------------------------------------------------------------------------- without numbers


def test_dtypes_and_shapes():
    domain = nd.domain(x2=nd.negative)
    single = family(lambda x: {"x2": jnp.asarray(x, jnp.float32) ** 2}, domain)
    assert (
        "T['x2'] is float32 if x is float64"
        in the(check(single, {"x2": (-2, -1)}), "dtype").message
    )
    double = family(
        lambda x: {"x2": x**2 * np.ones((), np.float64).astype(float).reshape(())}, domain
    )
    assert "float64 if x is float32" in the(check(double, {"x2": (-2, -1)}), "dtype").message
    wide = family(
        lambda x: {"x2": jnp.sum(x**2)}, domain, (3,), log_base_measure=lambda self, x: 0 * x
    )
    assert "returns shape (3,)" in the(check(wide, {"x2": (-2, -1)}), "shapes").message
    support = family(lambda x: {"x2": jnp.sum(x**2)}, domain, (3,), support=Exp())
    assert "x_shape is (3,)" in the(check(support, {"x2": (-2, -1)}), "support").message


class Halved(AbstractBijection):
    """Sigmoid with a wrong log-determinant."""

    shape: tuple = ()
    cond_shape: None = None

    def transform_and_log_det(self, x, condition=None):
        y, log_det = Sigmoid().transform_and_log_det(x)
        return y, log_det / 2

    def inverse_and_log_det(self, y, condition=None):
        x, log_det = Sigmoid().inverse_and_log_det(y)
        return x, log_det / 2


def test_a_wrong_log_determinant():
    report = check(family(lambda x: {"x": x}, support=Halved()), {"x": (-1, 1)})
    assert "log_det" in the(report, "support").message


@pytest.mark.usefixtures("without_type_checks")
def test_refusals():
    with pytest.raises(ValueError, match="Expected an instance of ExponentialFamily; got <class"):
        nd.check_family(nd.Gamma, {}, KEY)
    with pytest.raises(ValueError, match="Expected ranges for"):
        nd.check_family(nd.Gamma(), {"x": (-1, -0.5)}, KEY)
