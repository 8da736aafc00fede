"""Bases that are computed once per label, as Taylor models around the labels' etas."""

import weakref
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_context
from jaxtyping import Array, Bool, Float

from nnef_dists.families import AbstractDiscreteSupport, ExponentialFamily, support_dim
from nnef_dists.moments import MomentBatch, MomentDataset
from nnef_dists.networks._laplace import LaplaceBase
from nnef_dists.networks._terms import AbstractBase, BaseTerms, Gap
from nnef_dists.networks._variational import VariationalBase

# Number of etas per compiled call, and of etas that are computed at once.
_TILE, _TOGETHER = 128, 16
# Number of labels at which bases are compared with labels.
_MOST_COMPARED = 512
# Fraction of labels at which a chosen base must have a small error, largest such error, and largest
# error of Laplace's approximation at any label, in z units.
_SHARE, _LARGEST_ERROR, _LIMIT = 0.9, 0.3, 1.0
# RMS error of Laplace's approximation, in z units, above which the variational base is tried, and
# largest median error at which it is.
_SMALL_ERROR, _LARGEST_MEDIAN = 0.02, 0.05
# Largest dimension of x for the variational base. Its search takes 0.8 ms per eta in four.
_MOST_VARIATIONAL = 4
# Largest difference of an estimate's mean from the label, in z units, at which it is used.
_DIFFERENT = 0.1

# Cache of the expanded labels, which the constructor of a network and its training share.
_EXPANDED: "weakref.WeakKeyDictionary[MomentDataset, tuple[AbstractBase, MomentBatch]]" = (
    weakref.WeakKeyDictionary()
)


@final
class TaylorBase(AbstractBase):
    """The second-order Taylor model of another base around one eta.

    At this eta, value, gradient and Hessian agree with the other base. So the moments of a network
    and their Jacobians are equal for both bases.

    Attributes:
        family: The family of the other base.
        kind: The class of the other base.
        eta: Center of the model, `(eta_dim,)`.
        values: A_B, the scale and the inputs, in one vector, `(k,)`.
        gradients: Derivatives of `values`, `(k, eta_dim)`.
        hessians: Second derivatives of `values`, `(k, eta_dim, eta_dim)`.
        gap: The estimate of A - A_B at `eta`.
    """

    family: ExponentialFamily = eqx.field(static=True)
    kind: type = eqx.field(static=True)
    eta: Float[Array, "*n eta_dim"]
    values: Float[Array, "*n k"]
    gradients: Float[Array, "*n k eta_dim"]
    hessians: Float[Array, "*n k eta_dim eta_dim"]
    gap: Gap

    def __call__(self, eta: Float[Array, " eta_dim"]) -> BaseTerms:
        """Returns the model's terms at eta."""
        moved = eta - self.eta
        found = self.values + self.gradients @ moved + self.hessians @ moved @ moved / 2
        return BaseTerms(found[0], found[1], found[2:])

    def check_source(self, base: AbstractBase, family: ExponentialFamily) -> None:
        """Raises `ValueError` unless this is a model of this kind of base, for this family."""
        if self.kind is not type(base) or self.family != family:
            raise ValueError(
                f"Expected labels with a {type(base).__name__} of {family!r}; got labels with a "
                f"{self.kind.__name__} of {self.family!r}. Make them with network.batch(data)"
            )


def expand_labels(base: AbstractBase, data: MomentDataset) -> MomentBatch:
    """Returns the valid labels of data, with Taylor models of a base in their field `base`.

    Args:
        base: The base of the data's family.
        data: Moment data.

    Returns:
        The batch. Further calls with this data and base return it again.

    Raises:
        ValueError: If the base does not exist at the eta of a label.
    """
    batch = _with_models(base, data)
    # Concrete arrays, even if the first call is inside of a traced function.
    with eval_context():
        lost = ~_exist(batch.base)
        if lost.any():
            raise ValueError(
                f"Expected {type(base).__name__} to exist at every label's eta; got {lost.sum()} "
                f"of {len(batch)} without, the first at {batch.eta[jnp.argmax(lost)]}. Leave "
                "these labels out, or use base=None"
            )
    return batch


def choose_base(family: ExponentialFamily, data: MomentDataset) -> AbstractBase | None:
    """Returns the base that suits the data of a family: `LaplaceBase`, `VariationalBase` or None.

    A base needs continuous x and a smooth log-density, and must exist at each of at most 512
    labels. At these labels its uncorrected moments have errors, in z units (root mean square over
    statistics). With two modes, some of them are large. The first base that suits is chosen:

    1. `VariationalBase` in at most four dimensions of x, if all its errors are below 0.3, and
       Laplace's are poor at some labels: their RMS is above 0.02, but their median below 0.05.
    2. `LaplaceBase` if its errors are below 0.3 at 90% of the labels, and below 1 at all.

    Args:
        family: The exponential family.
        data: Moment data of that family.

    Returns:
        The base.
    """
    if not family.is_smooth or isinstance(family.support, AbstractDiscreteSupport):
        return None
    laplace = LaplaceBase(family)
    errors = _uncorrected_errors(laplace, data)
    if not np.isfinite(errors).all():
        return None
    rms = np.sqrt(np.mean(errors**2))
    is_poor = rms > _SMALL_ERROR and np.median(errors) < _LARGEST_MEDIAN
    if is_poor and support_dim(family) <= _MOST_VARIATIONAL:
        variational = VariationalBase(family)
        if np.max(_uncorrected_errors(variational, data)) < _LARGEST_ERROR:
            return variational
    suits = np.quantile(errors, _SHARE) < _LARGEST_ERROR and np.max(errors) < _LIMIT
    return laplace if suits else None


def _uncorrected_errors(base: AbstractBase, data: MomentDataset) -> Float[np.ndarray, " n"]:
    """Returns errors of a base at some labels, in z units.

    All are infinite if the base does not exist at one of these labels.
    """
    labels = data.batch()
    with eval_context():
        if len(labels) <= _MOST_COMPARED:
            labels = _with_models(base, data)
            models = labels.base
        else:
            labels = labels[jnp.linspace(0, len(labels) - 1, _MOST_COMPARED).astype(int)]
            models = _expand(base, data.family, labels.eta)
        z = (models.gradients[:, 0] - labels.mean) / labels.sd
        errors = jnp.sqrt(jnp.mean(z**2, 1))
        return np.asarray(jnp.where(_exist(models).all(), errors, jnp.inf))


def _exist(models: TaylorBase) -> Bool[Array, " n"]:
    """Returns a mask of the etas at which the base exists."""
    return jnp.isfinite(models.hessians).all((1, 2, 3)) & jnp.isfinite(models.values).all(1)


def _with_models(base: AbstractBase, data: MomentDataset) -> MomentBatch:
    """Returns the valid labels with models of a base, which may not exist. The last are cached."""
    known = _EXPANDED.get(data)
    if known is not None and eqx.tree_equal(known[0], base) is True:
        return known[1]
    labels = data.batch()
    with eval_context():
        models = _expand(base, data.family, labels.eta)
        # A different mean indicates a missed second mode, for example.
        differs = ~(jnp.abs(models.gap.mean - labels.mean) < _DIFFERENT * labels.sd).all(1)
        error = jnp.where(differs, jnp.inf, models.gap.error)
        models = eqx.tree_at(lambda m: m.gap.error, models, error)
    batch = eqx.tree_at(lambda b: b.base, labels, models, is_leaf=lambda node: node is None)
    _EXPANDED[data] = base, batch
    return batch


def _expand(
    base: AbstractBase, family: ExponentialFamily, etas: Float[Array, "n eta_dim"]
) -> TaylorBase:
    """Returns the models around etas, with a leading axis. Tiles share one compiled program."""
    n = len(etas)
    tile = min(_TILE, -(-n // _TOGETHER) * _TOGETHER)
    rows = jnp.minimum(jnp.arange(-(-n // tile) * tile), n - 1).reshape(-1, tile)
    tiles = [_expand_tile(base, etas[tile]) for tile in rows]
    parts = jax.tree.map(lambda *parts: jnp.concatenate(parts)[:n], *tiles)
    return TaylorBase(family, type(base), etas, *parts)


@eqx.filter_jit
def _expand_tile(base: AbstractBase, etas: Float[Array, "n eta_dim"]) -> tuple[Any, ...]:
    """Returns values, gradients and Hessians of all terms, from one trace, and estimated gaps."""

    def values(eta):
        terms = base(eta)
        found = jnp.concatenate([terms.value[None], terms.scale[None], terms.inputs])
        return found, found

    def slopes(eta):
        gradients, found = jax.jacfwd(values, has_aux=True)(eta)
        return gradients, (gradients, found)

    def expand(eta):
        hessians, (gradients, found) = jax.jacfwd(slopes, has_aux=True)(eta)
        return found, gradients, hessians, base.estimate_gap(eta)

    return lax.map(expand, etas, batch_size=_TOGETHER)
