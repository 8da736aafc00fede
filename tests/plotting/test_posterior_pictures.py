"""Pictures of posteriors' diagnostics show what they say."""

import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists import plotting
from nnef_dists.plotting._uniform_band import uniform_band
from tests.plotting.posteriors import (
    RANKS,
    RNG,
    classified,
    posterior_predictive,
    texts,
)


class TestCalibration:
    """Pictures of ranks and levels, which are uniform where a posterior is exact."""

    def test_ranks_are_counted_and_tested(self):
        figure = plotting.plot_sbc_ranks(np.column_stack([RANKS[:, 0], RANKS[:, 0] ** 2]), bins=10)
        counts = [bar.get_height() for bar in figure.axes[0].patches if bar.get_width() < 0.1]
        assert sum(counts) == len(RANKS)
        written = texts(figure)
        p_value = float(nd.diagnostics.uniformity_p_value(jnp.asarray(RANKS[:, 0])))
        assert f"p = {p_value:.2g}" in written
        assert "p < 0.0001" in written

    def test_coverage_is_the_share_of_levels_below(self):
        levels = np.asarray([0.2, 0.5, 0.5, 0.9])
        figure = plotting.plot_expected_coverage({"a": levels})
        curve = figure.axes[0].lines[1]
        coverage = dict(zip(*(np.asarray(d).tolist() for d in curve.get_data()), strict=True))
        assert (coverage[0.2], coverage[0.5], coverage[0.9]) == (0.25, 0.75, 1.0)
        # Just below 0.9, where three of four levels are.
        assert "a: off by 0.25" in texts(figure)

    @pytest.mark.parametrize("m", [50, 1000])
    def test_band_holds_uniform_curves_as_often_as_it_says(self, m):
        grid, low, high = uniform_band(m)
        uniform = np.random.default_rng(5).uniform(size=(2000, m, 1))
        shares = np.stack([np.mean(each <= grid, 0) for each in uniform])
        inside = np.mean(np.all((shares >= low) & (shares <= high), 1))
        # Of 2,000 curves each, in the test and in the band's own calibration; counts are whole.
        error = 4 * np.sqrt(2 * 0.05 * 0.95 / 2000)
        assert 0.95 - error < inside < 0.95 + error + 0.02

    def test_levels_have_to_be_levels(self):
        for draw in (
            lambda bad: plotting.plot_sbc_ranks(bad[:, None]),
            lambda bad: plotting.plot_tarp(bad),
            lambda bad: plotting.plot_expected_coverage({"a": bad}),
        ):
            with pytest.raises(ValueError, match=r"in \[0, 1\]"):
                draw(np.asarray([0.5, 1.5]))
            with pytest.raises(ValueError, match=r"in \[0, 1\]"):
                draw(np.asarray([0.5, np.nan]))


class TestLocalC2ST:
    @pytest.mark.parametrize(("k", "dim"), [(1, 1), (5, 1), (6, 3)])
    def test_a_panel_an_observation(self, k, dim):
        figure = plotting.plot_local_c2st(classified(k, dim))
        written = texts(figure)
        assert all(f"x[{i}]" in written for i in range(k))
        assert f"p = {1 / 100:.2g}" in written

    def test_names_the_coordinates_drawn(self):
        figure = plotting.plot_local_c2st(classified(2, 3), dimensions=(2, 0))
        assert "θ[2]" in texts(figure)
        assert "θ[1]" not in texts(figure)


class TestPosteriorPredictive:
    def test_names_the_smallest_p_value_and_shows_it(self):
        figure = posterior_predictive()
        assert "smallest of 3 p values: 0.002" in texts(figure)
        (dots,) = (c for c in figure.axes[0].collections if len(c.get_offsets()) == 3)
        blue, _, red = dots.get_facecolors()
        assert not np.allclose(blue, red)

    def test_a_series_is_a_curve(self):
        replicates = RNG.normal(size=(100, 20, 2))
        figure = plotting.plot_posterior_predictive(replicates, replicates[0])
        assert figure.axes[0].get_xlabel() == "entry"
