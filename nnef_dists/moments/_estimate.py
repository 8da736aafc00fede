"""Moments of many etas, from one compiled program that runs on tiles of etas."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm.auto import tqdm

from nnef_dists._checks import as_key, as_rows, check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.families import AbstractDiscreteSupport, ExponentialFamily
from nnef_dists.moments._dataset import MomentDataset
from nnef_dists.moments._diagnostics import MomentLabel
from nnef_dists.moments._discrete import discrete_ladder
from nnef_dists.moments._label import label_chains
from nnef_dists.moments._label_checks import check_dtype
from nnef_dists.moments._ladder import LADDER, climb
from nnef_dists.moments._quadrature import compare_with_quadrature
from nnef_dists.sampling import HMCConfig, quadrature_dim, sample_chains


def estimate_moments(
    family: ExponentialFamily,
    etas: Float[Array, "n eta_dim"],
    key: PRNGKeyArray,
    config: HMCConfig | None = None,
    *,
    progress: bool = False,
) -> MomentDataset:
    """Estimates E[T | eta] and Cov[T | eta] of many etas by Hamiltonian Monte Carlo.

    Each eta has its own chains, adaptation and diagnostics. A label that fails a check has NaN
    moments and a status with the reason. The label of eta number i depends only on this eta,
    `fold_in(key, i)` and the config. It is bitwise identical for any number of other etas.

    Tiles of etas take turns on the local devices. If the etas are sharded over a mesh
    (`jax.sharding.NamedSharding`), tiles take turns on the devices of this mesh. The labels do not
    depend on the devices.

    Args:
        family: The exponential family.
        etas: Valid natural parameters, `(n, eta_dim)`, of dtype float32 or float64. The labels have
            their dtype.
        key: A `jax.random.key`.
        config: The configuration, with the thresholds of valid labels. Defaults to `HMCConfig()`.
        progress: Whether to show a progress bar. Defaults to False.

    Returns:
        A `MomentDataset` of n labels. Print it for a summary.

    Raises:
        ValueError: If the etas have a wrong shape or dtype, or one is outside the natural domain.
            The message names the first one, with its index, natural parameter and value. If the
            mesh of the etas has devices of other processes. If the etas are traced by `jax.jit` or
            `jax.vmap`.
    """
    config = HMCConfig() if config is None else config
    check_instance(config, HMCConfig, "config")
    etas, devices = _gather(etas)
    # A program of one device cannot run in the context of a mesh.
    with jax.set_mesh(None) if devices else contextlib.nullcontext():
        etas, key = check_etas(family, etas), as_key(key)
        with tqdm(total=len(etas), desc="moments", unit="eta", disable=not progress) as bar:
            labels = label_etas(family, etas, key, config, on_tile=bar.update, devices=devices)
    return MomentDataset(family, config, np.asarray(etas), labels)


def sample_hmc(
    key: PRNGKeyArray,
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    n: int,
    config: HMCConfig | None = None,
) -> tuple[Float[Array, "n *x_shape"], MomentLabel]:
    """Draws from p(x | eta), by the sampler of `estimate_moments`.

    Args:
        key: A `jax.random.key`.
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        n: Total number of draws, at least 1.
        config: The configuration. Defaults to `HMCConfig()`. Its `draws` is ignored: each chain
            makes n / chains draws (rounded up), at least 8.

    Returns:
        Draws of shape `(n, *x_shape)`, chain after chain, and the `MomentLabel` of T at all draws,
        with its diagnostics and status. The draws are returned even if the status is not OK, so
        check the status.

    Raises:
        ValueError: If n < 1, or eta is invalid.
    """
    config = HMCConfig() if config is None else config
    check_instance(config, HMCConfig, "config")
    n = check_integer("n", n, 1)
    draws = max(8, -(-n // config.chains))
    check_instance(family, ExponentialFamily, "family")
    eta = family.check_eta(eta)
    x, label = _sample(family, dataclasses.replace(config, draws=draws), eta, as_key(key))
    # Under `jax.jit` an invalid eta is NaN. The chains stay at their starts, which are not draws.
    x = x * jnp.where(jnp.isnan(eta).any(), jnp.nan, 1).astype(x.dtype)
    return x.reshape(-1, *family.x_shape)[:n], label


def check_etas(
    family: ExponentialFamily, etas: Array | np.ndarray | Sequence[Any], *, first: int = 0
) -> Float[Array, "n eta_dim"]:
    """Returns the etas as an array, if all are valid.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(n, eta_dim)`, as an array or nested lists of numbers.
        first: Number of the first eta, for error messages. Defaults to 0.

    Returns:
        These etas.

    Raises:
        ValueError: If the shape is wrong, the dtype is not float32 or float64, or a row is invalid.
            The message names the index of the first invalid eta.
    """
    check_instance(family, ExponentialFamily, "family")
    etas = as_rows(etas, family.eta_dim, "etas", family)
    check_dtype(etas.dtype)
    valid = np.asarray(jax.vmap(family.is_valid_eta)(etas))
    if not valid.all():
        index = int(np.argmin(valid))
        try:
            family.check_eta(etas[index])
        except ValueError as error:
            raise ValueError(f"etas[{first + index}]: {error}") from None
    return etas


def label_etas(
    family: ExponentialFamily,
    etas: Float[Array, "n eta_dim"],
    key: PRNGKeyArray,
    config: HMCConfig,
    *,
    first: int = 0,
    on_tile: Callable[[int], object] = lambda n: None,
    devices: Sequence[Any] = (),
) -> MomentLabel:
    """Labels valid etas, a tile at a time.

    Args:
        family: The exponential family.
        etas: Valid natural parameters, `(n, eta_dim)`.
        key: A `jax.random.key`. Eta number i, counted from `first`, uses `fold_in(key, i)`.
        config: The configuration, with the thresholds of valid labels.
        first: Number of the first eta, a multiple of `config.tile`. Defaults to 0.
        on_tile: Callback after each tile, with the number of etas in it.
        devices: The devices that share the work. Defaults to all local devices.

    Returns:
        The labels, with a leading axis of n, as NumPy arrays.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(first, first + len(etas)))
    if isinstance(family.support, AbstractDiscreteSupport):
        return climb(family, config, etas, keys, discrete_ladder(family), on_tile, devices)
    labels = climb(family, config, etas, keys, LADDER, on_tile, devices)
    if config.quadrature and quadrature_dim(family) <= 2:
        labels = compare_with_quadrature(family, np.asarray(etas), labels)
    return labels


def _gather(etas: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns the etas, as one NumPy array if they are sharded, and the devices of their mesh.

    A label costs far more than the transfer of its eta. Programs of one device each give equal
    labels for any mesh.
    """
    if isinstance(etas, Tracer):
        raise ValueError(
            f"Expected concrete etas; got traced ones of shape {etas.shape}. Call estimate_moments "
            "outside of jax.jit and jax.vmap. It compiles its own programs."
        )
    if not isinstance(etas, jax.Array) or not isinstance(etas.sharding, NamedSharding):
        return etas, ()
    if not etas.is_fully_addressable:
        others = {device.process_index for device in etas.sharding.device_set}
        raise ValueError(
            f"Expected etas on devices of this process; got devices of processes {sorted(others)}. "
            "Label a part of the etas in each process, or use generate_moments with an executor."
        )
    mesh = etas.sharding.mesh
    return np.asarray(etas), tuple(mesh.local_devices or ())


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(family, config, eta, key):
    return label_chains(config, *sample_chains(family, config, eta, key))
