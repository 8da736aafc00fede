"""Pictures of posteriors' diagnostics, and what is written in one."""

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

import nnef_dists as nd
from nnef_dists import plotting

RNG = np.random.default_rng(0)
RANKS = RNG.uniform(size=(400, 2))
REPLICATES = RNG.normal(size=(500, 3))


def texts(figure):
    """All that is written in a figure."""
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def classified(k, dim):
    """A local classifier test that nobody made, with a large statistic at the first observation."""
    rng = np.random.default_rng(1)
    null = rng.uniform(0, 1e-3, (k, 99))
    return nd.diagnostics.LocalC2ST(
        draws=jnp.asarray(rng.normal(size=(k, 50, dim))),
        probability=jnp.asarray(rng.uniform(0.4, 0.6, (k, 50))),
        statistic=jnp.asarray([1.0, *[5e-4] * (k - 1)]),
        null=jnp.asarray(null),
    )


def sbc_ranks():
    return plotting.plot_sbc_ranks(RANKS, names=["a", "b"])


def expected_coverage():
    return plotting.plot_expected_coverage({"first": RANKS[:, 0], "second": RANKS[:, 1]})


def tarp():
    return plotting.plot_tarp(RANKS[:, 0])


def local_c2st():
    return plotting.plot_local_c2st(classified(3, 2), names=["near", "middle", "far"])


def posterior_predictive():
    return plotting.plot_posterior_predictive(
        REPLICATES, np.asarray([0.0, 1.0, 9.0]), names=list("abc")
    )
