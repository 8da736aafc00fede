"""Where the etas of generated data come from: an array, or random draws made as needed."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import check_etas
from nnef_dists.storage import KeyData, pack_key, unpack_key


class RandomEtas(NamedTuple):
    """Random etas that are drawn as they are needed, so that none of them need fit in memory.

    They are those of `family.sample_eta(key, n, ranges, dtype=dtype)`, up to rounding.

    Attributes:
        key: A `jax.random.key`.
        n: How many etas.
        ranges: By statistic, `(low, high)` or `(low, high, "log")`.
        dtype: Floating dtype; None is JAX's default.
    """

    key: PRNGKeyArray
    n: int
    ranges: Mapping[str, Any]
    dtype: DTypeLike | None = None


@dataclasses.dataclass(frozen=True)
class GivenSource:
    """Etas of an array, from row `first` of it on."""

    etas: np.ndarray
    first: int = 0

    @property
    def n(self) -> int:
        """How many etas."""
        return len(self.etas)

    @property
    def dtype(self) -> str:
        """Their dtype."""
        return self.etas.dtype.name

    def describe(self) -> dict[str, Any]:
        """Describes the etas by their number and a digest."""
        digest = hashlib.sha256(np.ascontiguousarray(self.etas).tobytes()).hexdigest()
        return {"kind": "given", "n": self.n, "sha256": digest}

    def part(
        self, family: ExponentialFamily, tile: int, start: int, stop: int
    ) -> Float[Array, "n eta_dim"]:
        """Returns etas number `start` to `stop`."""
        return jnp.asarray(self.etas[start - self.first : stop - self.first])

    def restricted(self, start: int, stop: int) -> "GivenSource":
        """Returns a source of etas number `start` to `stop` alone, to send to a worker."""
        return GivenSource(self.etas[start - self.first : stop - self.first], start)


@dataclasses.dataclass(frozen=True)
class RandomSource:
    """Etas drawn from ranges: `RandomEtas` as plain data."""

    key: KeyData
    n: int
    ranges: tuple[tuple[str, tuple], ...]
    dtype: str

    def describe(self) -> dict[str, Any]:
        """Describes the etas by what they are drawn from."""
        ranges = {name: list(spec) for name, spec in self.ranges}
        return {"kind": "random", "n": self.n, "key": self.key, "ranges": ranges}

    def part(
        self, family: ExponentialFamily, tile: int, start: int, stop: int
    ) -> Float[Array, "n eta_dim"]:
        """Returns etas number `start` to `stop`: whole tiles, so that chunks change no bit."""
        key = unpack_key(self.key)
        tiles = [
            _draw_tile(family, tile, self.ranges, self.dtype, key, first)
            for first in range(start, stop, tile)
        ]
        return check_etas(family, jnp.concatenate(tiles)[: stop - start], first=start)

    def restricted(self, start: int, stop: int) -> "RandomSource":
        """Returns the source itself, which is small."""
        return self


def eta_source(
    family: ExponentialFamily, etas: Array | np.ndarray | RandomEtas | tuple
) -> GivenSource | RandomSource:
    """Checks etas, or what they are drawn from, before anything is sampled.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(n, eta_dim)`; or `RandomEtas`, or a tuple of its fields.

    Returns:
        The source of etas.

    Raises:
        ValueError: For invalid etas or ranges.
    """
    # A tuple of rows is an array, one with ranges is not.
    if not isinstance(etas, tuple) or not any(isinstance(part, Mapping) for part in etas[2:3]):
        return GivenSource(np.asarray(check_etas(family, etas)))
    fields: Any = etas
    random = RandomEtas(*fields)
    random = random._replace(key=as_key(random.key))
    check_integer("n", random.n, 1)
    dtype = jnp.dtype(jnp.result_type(float) if random.dtype is None else random.dtype)
    # Ranges are checked when traced.
    jax.eval_shape(lambda key: family.sample_eta(key, 1, random.ranges, dtype=dtype), random.key)
    ranges = tuple((name, _plain_range(random.ranges[name])) for name in family.stat_shapes)
    return RandomSource(pack_key(random.key), int(random.n), ranges, dtype.name)


def _plain_range(spec: Sequence[Any]) -> tuple:
    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return (*(tuples(np.asarray(bound, float).tolist()) for bound in spec[:2]), *spec[2:])


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _draw_tile(family, tile, ranges, dtype, key, first):
    return family.sample_eta(key, tile, dict(ranges), first=first, dtype=dtype)
