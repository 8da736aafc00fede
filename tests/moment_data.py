"""Moment data of given arrays."""

import nnef_dists as nd


def data_of_arrays(family, config, *, eta, **label):
    """A dataset of etas and the fields of their labels, by name."""
    return nd.MomentDataset(family, config, eta, nd.moments.MomentLabel(**label))
