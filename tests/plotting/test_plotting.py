"""Every picture can be drawn, says what it shows, and leaves nothing behind."""

import inspect

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
from flowjax.bijections import Exp
from matplotlib import pyplot
from matplotlib.figure import Figure

import nnef_dists as nd
from nnef_dists import plotting
from tests.moment_data import data_of_arrays
from tests.plotting.posteriors import (
    REPLICATES,
    classified,
    expected_coverage,
    local_c2st,
    posterior_predictive,
    sbc_ranks,
    tarp,
    texts,
)

RNG = np.random.default_rng(0)
EXACT = RNG.normal(size=(30, 5))
SCALE = RNG.uniform(0.5, 2.0, size=(30, 5))
PREDICTED = EXACT + 0.01 * SCALE * RNG.normal(size=(30, 5))
COVARIANCES = np.einsum("nij,nkj->nik", RNG.normal(size=(2, 3, 6)), RNG.normal(size=(2, 3, 6)))
QUARTIC = nd.Polynomial1D((1, 2, 4))
FACTORS = RNG.normal(size=(40, 3, 6)) * np.array([1e-3, 1.0, 1e2])[:, None]
INFORMATION = FACTORS @ FACTORS.swapaxes(1, 2)
ETAS = jnp.asarray([[0.0, 2.0, -0.4], [1.0, -1.0, -1.0], [0.3, 0.0, -2.0]])


def learning_curves():
    losses = np.geomspace(1.0, 1e-4, 300)
    return plotting.plot_learning_curves(losses, -losses, noise_floor=0.016)


def moment_data(n, *, good=0.9, seed=0):
    """Labels that nobody sampled, the bad ones of all kinds."""
    rng = np.random.default_rng(seed)
    kinds = [status for status in nd.Status if status > nd.Status.OK]
    status = np.where(rng.uniform(size=n) < good, nd.Status.OK, rng.choice(kinds, n))
    arrays = {name: rng.uniform(-1, 1, (n, 3)).astype(np.float32) for name in ("eta", "mean")} | {
        "covariance": np.broadcast_to(np.eye(3, dtype=np.float32), (n, 3, 3)),
        "standard_error": rng.lognormal(-5, 1, (n, 3)).astype(np.float32),
        "covariance_error": rng.lognormal(-5, 1, (n, 3, 3)).astype(np.float32),
        "ess": rng.lognormal(7, 0.3, (n, 3)).astype(np.float32),
        "rhat": (1 + rng.normal(0, 0.003, (n, 3))).astype(np.float32),
    }
    bad = status != nd.Status.OK
    for name in ("mean", "covariance", "standard_error", "covariance_error"):
        arrays[name] = np.where(
            bad.reshape(n, *[1] * (arrays[name].ndim - 1)), np.nan, arrays[name]
        )
    arrays["ess"][status == nd.Status.NOT_FINITE] = np.nan
    others = set(nd.moments.MomentLabel._fields) - set(arrays) - {"status"}
    arrays |= {name: np.zeros(n, np.float32) for name in others}
    return data_of_arrays(QUARTIC, nd.HMCConfig(), status=status.astype(np.int8), **arrays)


def moment_diagnostics():
    return plotting.plot_moment_diagnostics(moment_data(300))


def moment_comparison():
    return plotting.plot_moment_comparison(EXACT, PREDICTED, SCALE, uncertainty=0.01 * SCALE)


def error_distribution():
    errors = (PREDICTED - EXACT) / SCALE
    return plotting.plot_error_distribution({"labels": 2 * errors, "network": errors})


def densities():
    means = np.asarray([0.0, 0.4, 0.1])
    return plotting.plot_densities(QUARTIC, ETAS, means=means, uncertainty=0.1 + 0 * means)


def covariance_comparison():
    return plotting.plot_covariance_comparison(COVARIANCES, COVARIANCES + 0.1)


def fisher_information():
    return plotting.plot_fisher_information(1.01 * INFORMATION, INFORMATION, names=list("abc"))


def component_errors():
    return plotting.plot_component_errors(EXACT, PREDICTED, SCALE, names=list("abcde"))


PICTURES = [
    component_errors,
    covariance_comparison,
    densities,
    error_distribution,
    expected_coverage,
    fisher_information,
    learning_curves,
    local_c2st,
    moment_comparison,
    moment_diagnostics,
    posterior_predictive,
    sbc_ranks,
    tarp,
]


def test_every_picture_is_drawn_here():
    assert {f"plot_{picture.__name__}" for picture in PICTURES} == set(plotting.__all__)


@pytest.mark.parametrize("picture", PICTURES)
def test_returns_a_figure_and_leaves_nothing_behind(picture, tmp_path):
    settings = dict(mpl.rcParams)
    figure = picture()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5_000
    assert dict(mpl.rcParams) == settings
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", plotting.__all__)
def test_documents_its_arguments_and_result(name):
    doc = inspect.getdoc(getattr(plotting, name)) or ""
    assert all(f"\n\n{heading}\n    " in doc for heading in ("Args:", "Returns:", "Raises:"))


def test_the_users_settings_do_not_show():
    with mpl.rc_context({"axes.facecolor": "black", "figure.facecolor": "black"}):
        figure = component_errors()
    assert all(axes.get_facecolor() == (1, 1, 1, 1) for axes in figure.axes)
    assert figure.get_facecolor() == (1, 1, 1, 1)


def test_units_are_named():
    assert "z units" in texts(learning_curves())
    assert "nats" in texts(learning_curves())
    assert "z units" in texts(moment_comparison())
    assert "z units" in texts(error_distribution())
    assert "z units" in texts(component_errors())
    assert "z units" in texts(moment_diagnostics())


def test_one_stage_is_one_panel():
    assert len(plotting.plot_learning_curves(np.ones(3)).axes) == 1
    assert len(learning_curves().axes) == 2


def test_moment_comparison_names_the_statistics_and_their_errors():
    figure = plotting.plot_moment_comparison(
        EXACT, EXACT + 0.5 * SCALE, SCALE, names=(*QUARTIC.stat_names, "y", "y2")
    )
    written = texts(figure)
    assert all(f"E[{name}]" in written for name in QUARTIC.stat_names)
    assert written.count("rms 0.5 z") == 5


def test_error_distribution_states_rms_median_and_maximum():
    figure = plotting.plot_error_distribution({"network": np.asarray([0.1, -0.1, 0.1, 0.7])})
    assert "network: rms 0.36, median 0.1, max 0.7" in texts(figure)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_densities_integrate_to_one_and_mark_the_exact_mean(offset):
    family = nd.GaussianNatural1D()
    eta = family.to_natural(jnp.asarray(offset), jnp.asarray(0.25))
    axes = plotting.plot_densities(family, eta[None]).axes[0]
    curve, exact = axes.lines
    x, density = curve.get_data()
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-6)
    truth = np.exp(-((x - offset) ** 2) / 0.5) / np.sqrt(0.5 * np.pi)
    # Beyond the drawn range lie 2e-5 of the mass.
    np.testing.assert_allclose(density, truth, atol=2e-3)
    assert exact.get_xdata()[0] == pytest.approx(offset, abs=1e-3)


def test_densities_of_an_angle_go_round_the_circle():
    eta = jnp.asarray([1.0, 0.5])
    figure = plotting.plot_densities(nd.VonMisesHarmonic(1), eta[None])
    x, density = figure.axes[0].lines[0].get_data()
    kappa, mu = np.hypot(1.0, 0.5), np.arctan2(0.5, 1.0)
    np.testing.assert_allclose(density, scipy.stats.vonmises.pdf(x, kappa, mu), rtol=1e-4)


class OneBit(nd.ExponentialFamily):
    x_shape, support, natural_domain = (), nd.families.Bits(()), nd.domain()

    def compute_stats(self, x):
        return {"x": x}


POISSON = nd.families.Poisson()


@pytest.mark.parametrize(
    ("family", "eta", "points", "probabilities"),
    [
        (POISSON, [np.log(3.0)], range(14), scipy.stats.poisson(3).pmf(range(14))),
        (POISSON, [np.log(1e5)], None, scipy.stats.poisson(1e5).pmf),
        (nd.families.Binomial(4), [0.0], range(5), np.array([1, 4, 6, 4, 1]) / 16),
        (nd.families.Categorical(3), np.log([2.0, 3.0]), range(3), np.array([2, 3, 1]) / 6),
        (OneBit(), [np.log(3.0)], range(2), np.array([1, 3]) / 4),
    ],
    ids=["few", "many", "binomial", "categories", "bit"],
)
def test_discrete_densities_are_stems_at_the_points(family, eta, points, probabilities):
    axes = plotting.plot_densities(family, jnp.asarray(eta)[None]).axes[0]
    (stems,) = (c for c in axes.collections if isinstance(c, mpl.collections.LineCollection))
    drawn, mean = axes.lines
    x, p = drawn.get_data()
    if points is None:
        assert len(x) > 1000
        # 9 nats are 4.2 standard deviations.
        assert x[0] < 1e5 - 4 * 316 < 1e5 + 4 * 316 < x[-1]
        np.testing.assert_allclose(p, probabilities(x), rtol=2e-3)
    else:
        assert list(x) == list(points)[: len(x)]
        assert len(x) >= min(len(points), 11)
        np.testing.assert_allclose(p, probabilities[: len(x)], rtol=1e-5)
        assert mean.get_xdata()[0] == pytest.approx(np.array(points) @ probabilities, abs=1e-4)
    assert drawn.get_linestyle() == "None"
    ends = np.array(stems.get_segments())
    np.testing.assert_array_equal(ends[:, :, 0], np.stack([x, x], 1))
    np.testing.assert_array_equal(ends[:, :, 1], np.stack([0 * p, p], 1))


def test_discrete_densities_show_a_learned_one():
    q, eta = nd.ClosedForm(POISSON), jnp.log(jnp.asarray([3.0]))
    figure = plotting.plot_densities(POISSON, eta[None], log_prob=q.log_prob)
    exact, learned = figure.axes[0].lines[:2]
    np.testing.assert_allclose(learned.get_ydata(), exact.get_ydata(), rtol=1e-5)
    assert learned.get_linestyle() == "None"
    assert "learned p(x | η)" in texts(figure)


def test_densities_are_one_panel_an_eta():
    figure = plotting.plot_densities(QUARTIC, ETAS, most_columns=2)
    assert sum(axes.axison for axes in figure.axes) == len(ETAS)
    assert "2.00 x2 − 0.40 x4" in texts(figure)


def test_densities_show_a_learned_one():
    family = nd.GaussianNatural1D()
    eta = family.to_natural(jnp.asarray(1.0), jnp.asarray(0.25))

    def log_prob(x, eta):
        return family.unnormalized_logdensity(eta, x) - family.log_partition(eta)

    figure = plotting.plot_densities(family, eta[None], log_prob=log_prob)
    exact, learned = (line.get_ydata() for line in figure.axes[0].lines[:2])
    np.testing.assert_allclose(learned, exact, atol=2e-3)
    assert "learned p(x | η)" in texts(figure)


class TestFisherInformation:
    """Its right panel is of what no scaling or rotation of the statistics changes."""

    def test_shows_ratios_of_variances(self):
        line = fisher_information().axes[1].lines[0]
        assert len(line.get_xdata()) == 3 * len(INFORMATION)
        np.testing.assert_allclose(line.get_xdata(), 0.01, rtol=1e-6)

    def test_counts_what_is_not_positive_definite(self):
        learned = INFORMATION.copy()
        vector = np.linalg.eigh(INFORMATION[0])[1][:, -1]
        learned[0] -= 2 * vector[:, None] * (INFORMATION[0] @ vector)
        assert "40 of 40 learned" in texts(fisher_information())
        assert "39 of 40 learned" in texts(plotting.plot_fisher_information(learned, INFORMATION))

    def test_sees_an_indefinite_matrix_where_the_exact_one_is_singular(self):
        learned = np.array([[[1.0, 1.5], [1.5, 1]], [[1, 1], [1, 1]]])
        written = texts(plotting.plot_fisher_information(learned, np.ones((2, 2, 2))))
        assert "1 of 2 learned" in written

    def test_leaves_out_what_statistics_repeat(self):
        twice = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
        wide = twice @ INFORMATION @ twice.T
        figure = plotting.plot_fisher_information(1.01 * wide, wide)
        assert "40 of 40 learned" in texts(figure)
        np.testing.assert_allclose(figure.axes[1].lines[0].get_xdata(), 0.01, rtol=1e-6)


class TestMomentDiagnostics:
    def test_counts_and_explains_every_status(self):
        data = moment_data(300)
        written = texts(plotting.plot_moment_diagnostics(data))
        for status in nd.Status:
            count = int(np.sum(data.status == status))
            assert (f"{count} {status.name.lower()}" in written) == (count > 0)
            assert status.reason in written or count == 0

    def test_every_label_is_drawn_once_a_panel(self):
        data = moment_data(300)
        figure = plotting.plot_moment_diagnostics(data, names=["x2"])
        assert len(figure.axes) == 3
        for axes in figure.axes:
            drawn = np.concatenate([dots.get_offsets()[:, 0] for dots in axes.collections])
            np.testing.assert_allclose(np.sort(drawn), np.sort(data.eta[:, 1]))

    def test_limits_of_the_configuration_are_drawn(self):
        data = moment_data(300)
        ess, rhat, error = plotting.plot_moment_diagnostics(data, names=["x"]).axes
        assert [line.get_ydata()[0] for line in ess.lines] == [data.config.min_ess]
        assert [line.get_ydata()[0] for line in rhat.lines] == [data.config.max_rhat - 1]
        assert not error.lines

    def test_many_labels_are_drawn_as_their_density(self):
        data = moment_data(20_000, good=0.99)
        axes = plotting.plot_moment_diagnostics(data, names=["x"]).axes[-1]
        (density,) = (c for c in axes.collections if isinstance(c, mpl.collections.QuadMesh))
        assert density.get_array().sum() == data.ok.sum()

    @pytest.mark.parametrize("n", [1, 50, 20_000])
    def test_no_good_label(self, n):
        assert "no label is ok" in texts(plotting.plot_moment_diagnostics(moment_data(n, good=0)))

    def test_a_single_good_label(self):
        texts(plotting.plot_moment_diagnostics(moment_data(1, good=1)))

    def test_labels_of_another_source_have_no_limits(self):
        data = moment_data(30)
        data.config = None
        assert not plotting.plot_moment_diagnostics(data).axes[0].lines

    def test_an_opened_store_will_do(self, tmp_path):
        moment_data(30).save(tmp_path / "data.zarr")
        data = nd.MomentDataset.open(tmp_path / "data.zarr")
        assert f"{data.ok.sum()} ok" in texts(plotting.plot_moment_diagnostics(data))


def test_perfect_predictions_can_be_drawn():
    plotting.plot_component_errors(EXACT, EXACT, SCALE).canvas.draw()
    plotting.plot_moment_comparison(EXACT, EXACT, SCALE).canvas.draw()
    plotting.plot_error_distribution({"network": np.zeros(5)}).canvas.draw()
    plotting.plot_covariance_comparison(COVARIANCES, COVARIANCES).canvas.draw()


def test_arrays_of_jax_will_do():
    plotting.plot_component_errors(*map(jnp.asarray, (EXACT, PREDICTED, SCALE)))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.plot_learning_curves(np.ones((2, 2))), "vector of losses"),
        (
            lambda: plotting.plot_moment_comparison(EXACT, PREDICTED[:3], SCALE),
            "predicted of shape",
        ),
        (lambda: plotting.plot_moment_comparison(EXACT, PREDICTED, SCALE[:3]), "scale of shape"),
        (lambda: plotting.plot_component_errors(EXACT, PREDICTED, SCALE, names=["a"]), "5 names"),
        (lambda: plotting.plot_covariance_comparison(COVARIANCES, COVARIANCES[:1]), "learned of"),
        (lambda: plotting.plot_error_distribution({}), "Expected errors"),
        (lambda: plotting.plot_fisher_information(INFORMATION, INFORMATION[:2]), "learned of"),
        (lambda: plotting.plot_fisher_information(*2 * [0 * INFORMATION]), "positive diagonals"),
        (lambda: plotting.plot_error_distribution({"a": np.asarray([np.nan])}), "finite errors"),
        (lambda: plotting.plot_densities(nd.MultivariateNormal(2), ETAS), "scalar x"),
        (lambda: plotting.plot_densities(QUARTIC, ETAS, means=np.zeros(2)), "means of shape"),
        (lambda: plotting.plot_densities(POISSON, [[16.0]]), r"4096 points.*Poisson\(\)"),
        (
            lambda: plotting.plot_densities(nd.families.Ising(3), [[0.0, 0.1]]),
            r"scalar x; got Ising.*histogram",
        ),
        (lambda: plotting.plot_densities(QUARTIC, -ETAS), "'x4'"),
        (lambda: plotting.plot_expected_coverage({}), "levels by name"),
        (lambda: plotting.plot_sbc_ranks(np.full(9, 0.5)), r"ranks of shape \(m, k\)"),
        (lambda: plotting.plot_local_c2st(classified(2, 2), names=["a"]), "2 names"),
        (lambda: plotting.plot_local_c2st(classified(2, 2), dimensions=(1, 2)), "dimensions below"),
        (lambda: plotting.plot_posterior_predictive(REPLICATES, np.zeros(2)), "observed of shape"),
        (lambda: plotting.plot_moment_diagnostics(moment_data(3)[:0]), "Expected labels"),
        (lambda: plotting.plot_moment_diagnostics(moment_data(3), names=["y"]), "names among"),
    ],
)
def test_refuses_what_it_cannot_draw(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_densities_take_a_support():
    """A density on a half line is drawn there only."""

    class Exponential(nd.ExponentialFamily):
        x_shape = ()
        natural_domain = nd.domain(x=nd.negative)

        @property
        def support(self):
            return Exp()

        def compute_stats(self, x):
            return {"x": x}

    figure = plotting.plot_densities(Exponential(), jnp.asarray([[-2.0]]))
    x, density = figure.axes[0].lines[0].get_data()
    assert x.min() >= 0
    np.testing.assert_allclose(density, 2 * np.exp(-2 * x), atol=5e-3)


@pytest.mark.parametrize(("a", "mean"), [(2.0, 1.0), (1.1, 10.0), (0.9, np.nan)])
def test_densities_mark_the_mean_of_a_heavy_tail(a, mean):
    """An inverse gamma distribution, whose mean 1 / (a - 1) is infinite for a <= 1."""

    class InverseGamma(nd.ExponentialFamily):
        x_shape, support = (), Exp()
        natural_domain = nd.domain(l=nd.negative, r=nd.negative)

        def compute_stats(self, x):
            return {"l": jnp.log(x), "r": 1 / x}

    figure = plotting.plot_densities(InverseGamma(), jnp.asarray([[-a - 1, -1.0]]))
    marked = figure.axes[0].lines[-1].get_xdata()[0]
    np.testing.assert_allclose(marked, mean, rtol=1e-4)
