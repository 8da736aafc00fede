"""The interface of a rung of the ladder, and the labels that rungs share."""

import abc
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status, missing_labels
from nnef_dists.sampling import Density, HMCConfig, Modes


class AbstractRung(abc.ABC):
    """A sampler of labels, with the condition under which it samples eta.

    The tuple `LADDER` holds the instances in the order in which they are tried.

    Attributes:
        rung: The name of the sampler in its labels.
    """

    rung: ClassVar[Rung]

    @abc.abstractmethod
    def tries(self, climb: "Climb") -> np.ndarray:
        """Returns a mask of the etas that this rung tries, given their labels so far.

        Args:
            climb: The labels so far.

        Returns:
            A boolean mask, `(n,)`.
        """

    @abc.abstractmethod
    def label(self, climb: "Climb", rows: np.ndarray) -> MomentLabel:
        """Samples some etas and labels them.

        Args:
            climb: The labels so far, the etas and their keys.
            rows: Indices of these etas, ascending, at least one.

        Returns:
            Labels of these etas, as NumPy arrays. `SamplerInfo` lists the values of diagnostics
            that a sampler does not have.
        """


@dataclasses.dataclass
class Climb:
    """The labels of some etas while the rungs of a ladder are tried.

    Attributes:
        family: The exponential family.
        config: The configuration of the sampler.
        etas: Valid natural parameters, `(n, eta_dim)`.
        keys: A key per eta, `(n,)`.
        on_tile: Callback after each tile of the first rung, with the number of etas in it.
        devices: The devices that share the work. Defaults to all local devices.
        labels: The labels so far, as NumPy arrays. Their status is MISSING at first.
        found: Indices of the etas of the longer run, with its densities and modes for later rungs.
            None before it.
    """

    family: ExponentialFamily
    config: HMCConfig
    etas: Float[Array, "n eta_dim"]
    keys: Key[Array, " n"]
    on_tile: Callable[[int], object] = lambda n: None
    devices: Sequence[Any] = ()
    labels: MomentLabel = dataclasses.field(init=False)
    found: tuple[np.ndarray, Density, Modes] | None = None

    def __post_init__(self):
        self.devices = self.devices or jax.local_devices()
        n, eta_dim = self.etas.shape
        self.labels = missing_labels(n, eta_dim, self.etas.dtype)
        self._tries = np.zeros(n, np.uint32)

    def run(self, ladder: Sequence[AbstractRung]) -> MomentLabel:
        """Tries the rungs in their order, each on the etas that it selects.

        Without `config.ladder`, each eta is tried once.

        Args:
            ladder: The rungs.

        Returns:
            The labels. A label that failed on all rungs has the status of the last one tried.
        """
        for rung in ladder:
            tried = rung.tries(self)
            if not self.config.ladder:
                tried = tried & self.has(Status.MISSING)
            (rows,) = np.nonzero(tried)
            if len(rows):
                found = rung.label(self, rows)
                # Labels of a rung within this one keep its name.
                name = np.where(found.rung == Rung.HMC, rung.rung, found.rung)
                for ours, new in zip(self.labels, found._replace(rung=name), strict=True):
                    ours[rows] = new
        return self.labels

    def has(self, *statuses: Status) -> np.ndarray:
        """Returns a mask of the labels with one of these statuses, `(n,)`."""
        return np.isin(self.labels.status, statuses)

    def fresh_keys(self, rows: np.ndarray) -> Key[Array, " m"]:
        """Returns a key per eta that no earlier try has used.

        Args:
            rows: Indices of the etas.

        Returns:
            The keys, `(m,)`. Try number k has `fold_in(key, k)`, and try 0 has the key itself.
        """
        number, keys = self._tries[rows], self.keys[rows]
        self._tries[rows] += 1
        folded = jax.vmap(jax.random.fold_in)(keys, number)
        return jnp.where(number == 0, keys, folded)


def in_tiles(
    program: Callable[..., Any],
    tile: int,
    arrays: Sequence[Any],
    *,
    devices: Sequence[Any],
    on_tile: Callable[[int], object] = lambda n: None,
) -> Any:
    """Maps a compiled program over a leading axis, a tile at a time, on some devices.

    Args:
        program: Function from and to pytrees of arrays with a leading axis of `tile`.
        tile: Number of rows per call. The last call repeats the last row.
        arrays: The arguments, pytrees of arrays with a leading axis of n.
        devices: The devices, which take turns.
        on_tile: Callback after each tile, with the number of rows in it.

    Returns:
        The results of the program, as NumPy arrays with a leading axis of n.
    """
    n = len(jax.tree.leaves(arrays)[0])
    pending: deque[Any] = deque()
    done: list[Any] = []

    def collect():
        done.append(jax.tree.map(np.asarray, pending.popleft()))
        on_tile(min(tile, n - tile * (len(done) - 1)))

    for number, start in enumerate(range(0, n, tile)):
        rows = np.minimum(np.arange(start, start + tile), n - 1)
        part = jax.tree.map(lambda leaf: leaf[rows], list(arrays))  # noqa: B023
        pending.append(program(*jax.device_put(part, devices[number % len(devices)])))
        if len(pending) == len(devices):
            collect()
    while pending:
        collect()
    return jax.tree.map(lambda *tiles: np.concatenate(tiles)[:n], *done)
