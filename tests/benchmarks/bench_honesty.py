"""Errors of labels over their standard errors, by family.

    python tests/benchmarks/bench_honesty.py [NAME ...] [--etas 2048] [--more 256] [--quick]

Labels are made without the comparison with quadrature, so that it cannot hide a bad sampler, and
are then compared. For each family: the share of valid labels; the RMS error in z units; the
standard deviation of t = error / standard error; how many labels have a |t| beyond 6, and the
largest |t|; the largest error in z units; the same of covariances (sd of t, beyond 6); and how many
labels the comparison with quadrature refuses. Reference moments are closed forms, grids and
transfer matrices of `tests/truth.py` and `tests/strangers.py`.

Families marked + are promised: at least 99% of their labels are valid. Two-dimensional ones and
more have `--more` etas.
"""

import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np

import nnef_dists as nd
from nnef_dists.families import support_dim
from nnef_dists.moments._quadrature import compare_with_quadrature

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests import truth
from tests.benchmarks.jobs import LATTICE, Job, closed_form, each
from tests.benchmarks.results import Table, main
from tests.moments.exact import polynomial_moments
from tests.strangers import DECLARED, Stranger


def pairs(exact):
    """Turns moments of one eta into those of many."""

    def many(etas):
        found = [exact(eta) for eta in etas]
        return np.array([mean for mean, _ in found]), np.array([cov for _, cov in found])

    return many


SHIPPED = {
    "GaussianNatural1D": Job(
        nd.GaussianNatural1D(),
        {"x": (-20.0, 20.0), "x2": (-40.0, -0.1, "log")},
        closed_form(nd.GaussianNatural1D()),
    ),
    "Polynomial1D": Job(
        nd.Polynomial1D((1, 2, 4)),
        {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.1, "log")},
        polynomial_moments,
    ),
    "Gamma": Job(
        nd.Gamma(), {"log_x": (0.0, 20.0), "x": (-10.0, -0.1, "log")}, closed_form(nd.Gamma())
    ),
    "Beta": Job(nd.Beta(), {"log_x": (0.0, 20.0), "log_1mx": (0.0, 20.0)}, closed_form(nd.Beta())),
    "GammaShapePrior": Job(
        nd.GammaShapePrior(),
        {"alpha": (-2, 4), "log_gamma": (-5, -0.5)},
        each(truth.gamma_shape_prior),
    ),
    "VonMisesHarmonic": Job(
        nd.VonMisesHarmonic(2),
        {"cos": (-3.0, 3.0), "sin": (-3.0, 3.0)},
        each(truth.von_mises_harmonic),
    ),
    "RectifiedGaussian": Job(
        nd.RectifiedGaussian(),
        {"x": (-5.0, 5.0), "x2": (-3.0, -0.2, "log")},
        each(truth.rectified_gaussian),
    ),
    "LaplaceProduct": Job(
        nd.LaplaceProduct(1),
        {"minus": (-0.5, 3.0), "plus": (-0.5, 3.0)},
        each(truth.laplace_product),
    ),
    "DirichletPrior": Job(
        nd.DirichletPrior(3),
        {"alpha": (-6.0, -1.0), "log_beta": (-4.0, -1.0)},
        each(lambda eta: truth.dirichlet_prior(eta, points=101)),
    ),
    "MultivariateNormal": Job(
        nd.MultivariateNormal(3),
        {"x": (-4.0, 4.0), "xxT": (-4.0, -0.1, "log")},
        closed_form(nd.MultivariateNormal(3)),
    ),
    "LatticePhi4": Job(nd.LatticePhi4(10), LATTICE, each(lambda eta: truth.lattice_phi4(10, eta))),
}
JOBS = {name: (job, True) for name, job in SHIPPED.items()} | {
    name: (Job(Stranger(name), dict(declared.ranges), pairs(declared.exact)), declared.promised)
    for name, declared in DECLARED.items()
}


def run(name: str, n_line: int, n_more: int, table: Table) -> dict[str, float]:
    # Each family compiles a program; a process may map only so many.
    jax.clear_caches()
    job, promised = JOBS[name]
    dim = support_dim(job.family)
    n = n_line if dim == 1 else n_more
    etas = job.family.sample_eta(jax.random.key(11), n, job.ranges)
    mean, covariance = job.exact(np.asarray(etas, np.float64))
    config = nd.HMCConfig(quadrature=False)
    start = time.perf_counter()
    data = nd.estimate_moments(job.family, etas, jax.random.key(12), config)
    seconds = time.perf_counter() - start
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    ok = data.ok
    scale = sd[:, :, None] * sd[:, None]
    # The reference is as exact as its own arithmetic.
    z = ((data.mean - mean) / sd)[ok]
    t = ((data.mean - mean) / np.hypot(data.standard_error, 1e-9 * sd))[ok]
    with np.errstate(divide="ignore", invalid="ignore"):
        t_covariance = (data.covariance - covariance) / np.hypot(
            data.covariance_error, 1e-9 * scale
        )
    t_covariance = t_covariance[ok]
    refused = 0
    if dim <= 2:
        labels = nd.moments.MomentLabel(
            *(np.array(getattr(data, f)) for f in nd.moments.MomentLabel._fields)
        )
        compared = compare_with_quadrature(job.family, np.asarray(etas), labels)
        refused = int(ok.sum() - (compared.status == nd.Status.OK).sum())
    worst = np.abs(t).max(1) if len(t) else np.zeros(1)
    worst_covariance = np.abs(t_covariance).max((1, 2)) if len(t) else np.zeros(1)
    reasons = {s.name: int((data.status == s).sum()) for s in nd.Status if s > nd.Status.OK}
    table.add(
        *(name, promised, dim, 100 * ok.mean(), np.sqrt(np.mean(z**2)) if z.size else None),
        *(np.abs(z).max() if z.size else None, t.std() if t.size else None, worst.max()),
        *(int((worst > 6).sum()), t_covariance.std() if t.size else None, worst_covariance.max()),
        *(int((worst_covariance > 6).sum()), refused, 1e3 * seconds / n),
        ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count),
    )
    return {"valid": float(ok.sum()), "beyond": float((worst > 6).sum())}


def honesty(options) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    if unknown := set(options.names) - set(JOBS):
        raise SystemExit(f"Expected names of {list(JOBS)}; got {sorted(unknown)}.")
    table = Table(
        "Labels, t = error / standard error",
        ["family", "promised", "x_dim", "valid [%]", "RMS error [z units]", "largest", "t sd",
         "largest |t|", "|t| > 6", "t sd of Cov[T]", "largest |t| of Cov[T]", "|t| > 6 of Cov[T]",
         "rejected by quadrature", "ms per eta, with compilation", "rejected labels"],
    )  # fmt: skip
    rows = [run(name, options.etas, options.more, table) for name in options.names or JOBS]
    valid, beyond = (sum(row[name] for row in rows) for name in ("valid", "beyond"))
    table.note = f"Of {valid:,.0f} valid labels {beyond:.0f} are beyond 6 standard errors."


def arguments(parser):
    parser.add_argument("names", nargs="*")
    parser.add_argument("--etas", type=int, default=2048)
    parser.add_argument("--more", type=int, default=256)


QUICK = {"etas": 32, "more": 8, "names": ["Polynomial1D", "VonMisesHarmonic", "LatticePhi4"]}


if __name__ == "__main__":
    main(__doc__, {"honesty": honesty}, arguments, QUICK)
