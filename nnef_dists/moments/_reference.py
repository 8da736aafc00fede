"""Labels of one and two dimensions beside quadrature."""

import numpy as np

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._density import support_dim
from nnef_dists.moments._diagnostics import MomentLabel, Status
from nnef_dists.moments._quadrature import double_quadrature

# Enough to find what is wrong with a label, where quadrature converges at all.
_POINTS = {1: 1001, 2: 151}
# In standard errors of the label: a larger difference is not chance.
_MOST_DIFFERENCE = 5.0
_MOST_COVARIANCE_DIFFERENCE = 6.0


def compare_with_quadrature(
    family: ExponentialFamily, etas: np.ndarray, labels: MomentLabel
) -> MomentLabel:
    """Refuses the labels that quadrature contradicts.

    A label is refused if any mean differs from that of a converged quadrature by more than 5 of
    its standard errors plus the bound of the quadrature's error, or any covariance by more than 6
    of its own. If quadrature does not converge the label stays.

    Args:
        family: A family of one or two dimensions.
        etas: Natural parameters, `(n, eta_dim)`.
        labels: Their labels, as NumPy arrays; changed in place.

    Returns:
        The labels.
    """
    (rows,) = np.nonzero(labels.status == Status.OK)
    if not len(rows):
        return labels
    found = double_quadrature(family, etas[rows], _POINTS[support_dim(family)])
    eps = float(np.finfo(labels.mean.dtype).eps)
    sd = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    scale = sd[:, :, None] * sd[:, None]
    bound = found.error[:, None] * sd + eps * np.abs(found.mean)
    bound += _MOST_DIFFERENCE * labels.standard_error[rows]
    covariance_bound = (found.error[:, None, None] + eps) * scale
    covariance_bound += _MOST_COVARIANCE_DIFFERENCE * labels.covariance_error[rows]
    # Comparisons are false where quadrature is NaN.
    is_off = (np.abs(labels.mean[rows] - found.mean) > bound).any(1)
    is_off |= (np.abs(labels.covariance[rows] - found.covariance) > covariance_bound).any((1, 2))
    refused = rows[is_off]
    for leaf in (labels.mean, labels.covariance, labels.standard_error, labels.covariance_error):
        leaf[refused] = np.nan
    labels.status[refused] = Status.DISAGREES
    return labels
