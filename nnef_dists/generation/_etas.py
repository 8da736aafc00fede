"""Sources of etas for generated data: arrays, and random draws chunk by chunk."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.families import AbstractEtaLaw, EtaLaw, ExponentialFamily, RangeEtas, as_eta_law
from nnef_dists.moments import check_etas
from nnef_dists.storage import KeyData, pack_key, unpack_key

# Number of etas that are drawn at once to check their validity.
_CHECKED = 4096
# Number of first draws that identify a distribution, in addition to its arrays.
_PROBES = 8


class RandomEtas(NamedTuple):
    """Random etas that are drawn chunk by chunk, so that they need not fit in memory.

    The etas agree with `family.sample_eta(key, n, ranges, dtype=dtype)` up to rounding.

    Attributes:
        key: PRNG key.
        n: Number of etas, at least 1.
        ranges: `(low, high)` or `(low, high, "log")` by statistic. Alternatively, another
            distribution of etas that `sample_eta` takes, such as `posterior_etas(...)`.
        dtype: Floating dtype. Defaults to JAX's default.
    """

    key: PRNGKeyArray
    n: int
    ranges: EtaLaw
    dtype: DTypeLike | None = None


@dataclasses.dataclass(frozen=True)
class GivenSource:
    """Etas in an array, whose first row is eta number `first`."""

    etas: np.ndarray
    first: int = 0

    @property
    def n(self) -> int:
        """The number of etas."""
        return len(self.etas)

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return self.etas.dtype.name

    def describe(self) -> dict[str, Any]:
        """Describes the etas by their number and a digest."""
        digest = hashlib.sha256(np.ascontiguousarray(self.etas).tobytes()).hexdigest()
        return {"kind": "given", "n": self.n, "sha256": digest}

    def part(
        self, family: ExponentialFamily, tile: int, start: int, stop: int
    ) -> Float[Array, "n eta_dim"]:
        """Returns the etas with numbers from `start` to `stop - 1`."""
        return jnp.asarray(self.etas[start - self.first : stop - self.first])

    def restricted(self, start: int, stop: int) -> "GivenSource":
        """Returns a source of the etas from `start` to `stop - 1` alone, for a worker."""
        return GivenSource(self.etas[start - self.first : stop - self.first], start)


@dataclasses.dataclass(frozen=True)
class RandomSource:
    """Etas drawn from a distribution: `RandomEtas` as plain data."""

    key: KeyData
    n: int
    law: AbstractEtaLaw
    probe: tuple[str, ...]
    dtype: str

    def describe(self) -> dict[str, Any]:
        """Describes the etas by their number, key and distribution."""
        described = {"kind": "random", "n": self.n, "key": self.key}
        if isinstance(self.law, RangeEtas):
            ranges = {name: list(spec) for name, spec in self.law.ranges.items()}
            return described | {"ranges": ranges}
        law = {"class": type(self.law).__qualname__, "sha256": _digest(self.law)}
        return described | {"law": law, "probe": list(self.probe)}

    def part(
        self, family: ExponentialFamily, tile: int, start: int, stop: int
    ) -> Float[Array, "n eta_dim"]:
        """Returns the etas with numbers from `start` to `stop - 1`.

        Whole tiles are drawn, so that the bits of each eta do not depend on the chunks.
        """
        key = unpack_key(self.key)
        tiles = [
            _draw_tile(family, tile, self.law, self.dtype, key, first)
            for first in range(start, stop, tile)
        ]
        return check_etas(family, jnp.concatenate(tiles)[: stop - start], first=start)

    def restricted(self, start: int, stop: int) -> "RandomSource":
        """Returns the source itself, which is small."""
        return self


def eta_source(
    family: ExponentialFamily, etas: Array | np.ndarray | RandomEtas | tuple
) -> GivenSource | RandomSource:
    """Checks etas, or their distribution, before any sampling.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(n, eta_dim)`, or `RandomEtas`, or a tuple of its fields.

    Returns:
        The source of the etas.

    Raises:
        ValueError: If etas, ranges or draws are invalid.
    """
    # A tuple of rows is an array. A tuple with a distribution is not.
    if not isinstance(etas, tuple) or not any(map(_is_law, etas[2:3])):
        return GivenSource(np.asarray(check_etas(family, etas)))
    fields: Any = etas
    random = RandomEtas(*fields)
    random = random._replace(key=as_key(random.key))
    check_integer("n", random.n, 1)
    dtype = jnp.dtype(jnp.result_type(float) if random.dtype is None else random.dtype)
    # Tracing checks the ranges.
    jax.eval_shape(lambda key: family.sample_eta(key, 1, random.ranges, dtype=dtype), random.key)
    law, n, probe = as_eta_law(random.ranges), int(random.n), ()
    if isinstance(law, RangeEtas):
        law = RangeEtas({name: _plain_range(law.ranges[name]) for name in family.stat_shapes})
    else:
        probe = _check_draws(family, law, dtype.name, random.key, n)
    return RandomSource(pack_key(random.key), n, law, probe, dtype.name)


def law_differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Lists differences of the first draws of two descriptions, beyond rounding."""
    one, two = (np.asarray(etas.get("probe", []), float) for etas in (stored, asked))
    if one.shape == two.shape and np.allclose(one, two, 1e-3, 1e-6):
        return []
    return ["etas: the first draws; the distribution of etas has changed"]


def check_law_importable(etas: GivenSource | RandomSource) -> None:
    """Checks that another process can import the functions of a distribution of etas.

    Raises:
        ValueError: If it cannot. The message has advice.
    """
    leaves = jax.tree.leaves(etas.law) if isinstance(etas, RandomSource) else []
    for leaf in leaves:
        name = getattr(leaf, "__qualname__", "") if callable(leaf) else ""
        if "<" in name or (name and leaf.__module__ == "__main__"):
            raise ValueError(
                f"Expected functions of etas that workers can import; got {name}. Move it to the "
                "top level of a module, or draw the etas by family.sample_eta and pass the array"
            )


def _is_law(value: Any) -> bool:
    return isinstance(value, Mapping | AbstractEtaLaw) or callable(value)


def _check_draws(family, law, dtype, key, n) -> tuple[str, ...]:
    """Returns the first draws as text. Raises if any of the n draws is invalid."""
    size = min(n, _CHECKED)
    probe: tuple[str, ...] = ()
    for first in range(0, n, size):
        count = min(size, n - first)
        etas = np.asarray(_draw_tile(family, size, law, dtype, key, first))[:count]
        if not np.isfinite(etas).all():
            # Outside a compiled program, the error states the number of invalid etas.
            family.sample_eta(key, count, law, first=first, dtype=dtype)
        probe = probe or tuple(f"{value:.6e}" for value in etas[:_PROBES].ravel())
    return probe


def _digest(law: AbstractEtaLaw) -> str:
    """Returns a digest of the arrays, numbers and function names of a distribution."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(law):
        if callable(leaf):
            digest.update(getattr(leaf, "__qualname__", type(leaf).__qualname__).encode())
        else:
            digest.update(np.asarray(leaf, np.float64).tobytes())
    return digest.hexdigest()


def _plain_range(spec: Sequence[Any]) -> tuple:
    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return (*(tuples(np.asarray(bound, float).tolist()) for bound in spec[:2]), *spec[2:])


@eqx.filter_jit
def _draw_tile(family, tile, law, dtype, key, first):
    return family.sample_eta(key, tile, law, first=first, dtype=dtype)
