"""Parameter-free noise for many arrays at once, in a form that compiles and runs fast.

`jax.random` hashes in a rolled loop on the CPU, which costs more than the rest of a training step
of a small network. This module unrolls the same hash into elementwise operations on a counter. The
compiler then vectorizes the hash together with the transform that follows.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_CHUNKS = 2
_CHUNK_MULTIPLE = 16


def threefry2x32(
    key: tuple[UInt32[Array, ""], UInt32[Array, ""]],
    counter: tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]],
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Hashes counters by Threefry-2x32 with 20 rounds.

    Args:
        key: Two words of the key.
        counter: Two words per hash, of any shape.

    Returns:
        Two random words per counter.

    Reference:
        Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation)))
        x = x + schedule[(block + 1) % 3]
        y = y + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return x, y


def uniform_pair(
    key: tuple[UInt32[Array, ""], UInt32[Array, ""]],
    counter: UInt32[Array, "*shape"],
    dtype: DTypeLike,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Returns two independent uniforms on (-1, 1) per counter.

    The values are odd multiples of 2^-23 (2^-52 in float64), a grid that is symmetric about 0.
    It contains neither 0 nor ±1, so that noise computed from these values is finite.
    """
    zero = jnp.zeros_like(counter)
    x, y = threefry2x32(key, (zero, counter))
    if jnp.dtype(dtype) == jnp.float64:
        z, w = threefry2x32(key, (zero + np.uint32(1), counter))
        return _on_grid(_join(x, y), dtype), _on_grid(_join(z, w), dtype)
    return _on_grid(x, dtype), _on_grid(y, dtype)


@functools.partial(jax.jit, static_argnames=("noise", "size", "dtype"))
def draw_noise(
    key: PRNGKeyArray,
    noise: Callable[[Float[Array, " n"], Float[Array, " n"]], tuple[Array, Array]],
    size: int,
    dtype: DTypeLike,
) -> Float[Array, " size"]:
    """Draws a vector of independent noise.

    On CPUs, a loop of two iterations prevents fusion. Otherwise, the compiler copies hash and
    transform into every consumer of a part of the vector, and compile time grows tenfold. Other
    platforms draw the same numbers at once, since each iteration would be a kernel launch.

    Args:
        key: A PRNG key of any implementation.
        noise: Function from two independent uniforms on (-1, 1) to two independent draws.
        size: Length of the vector.
        dtype: Floating dtype of the result. Below 32 bits, the noise is drawn in float32.

    Returns:
        Noise `(size,)`.
    """
    words = _two_words(key)
    drawn = dtype if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    chunk = -(-size // (2 * _CHUNKS * _CHUNK_MULTIPLE)) * _CHUNK_MULTIPLE

    def part(start: UInt32[Array, ""]) -> tuple[Float[Array, " chunk"], Float[Array, " chunk"]]:
        counter = start + lax.iota(jnp.uint32, chunk)
        a, b = noise(*uniform_pair(words, counter, drawn))
        return a.astype(dtype), b.astype(dtype)

    starts = jnp.arange(_CHUNKS, dtype=jnp.uint32) * np.uint32(chunk)
    a, b = lax.platform_dependent(
        starts, cpu=functools.partial(lax.map, part), default=jax.vmap(part)
    )
    return jnp.concatenate([a.reshape(-1), b.reshape(-1)])[:size]


def normal_pair(
    u: Float[Array, "*shape"], v: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Turns two uniforms on (-1, 1) into two standard normals [Box and Muller, 1958].

    The angle is `pi v`. Half of it lies in (-pi/2, pi/2), where short Taylor series of sine and
    cosine are accurate to rounding. They are cheaper than the library functions, which first
    reduce the angle.
    """
    terms = 12 if u.dtype == jnp.float64 else 7
    half = v * (math.pi / 2)
    square = half * half
    sine, cosine = jnp.zeros_like(v), jnp.zeros_like(v)
    for n in reversed(range(terms)):
        sine = sine * square + (-1) ** n / math.factorial(2 * n + 1)
        cosine = cosine * square + (-1) ** n / math.factorial(2 * n)
    sine = sine * half
    radius = jnp.sqrt(-2 * jnp.log(0.5 + 0.5 * u))
    return radius * (1 - 2 * sine * sine), radius * (2 * sine * cosine)


def _on_grid(bits: Array, dtype: DTypeLike) -> Array:
    """Converts random bits to uniforms on the odd multiples of half the grid spacing."""
    word, mantissa, one = (
        (np.uint64, 52, 0x3FF0000000000000)
        if jnp.dtype(dtype) == jnp.float64
        else (np.uint32, 23, 0x3F800000)
    )
    shift = word(8 * np.dtype(word).itemsize - mantissa)
    between_0_and_1 = lax.bitcast_convert_type((bits >> shift) | word(one), dtype) - 1
    # No step is rounded: 1 - 2^-23 is a float32, but 3 - 2^-23 is not.
    return 2 * between_0_and_1 - (1 - 2.0**-mantissa)


def _join(high: Array, low: Array) -> Array:
    return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)


def _two_words(key: PRNGKeyArray) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """Returns the two words of a threefry key, or two random words from another key."""
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    typed = key if is_typed else jax.random.wrap_key_data(key)
    if str(jax.random.key_impl(typed)) == "threefry2x32":
        words = jax.random.key_data(typed)
    else:
        words = jax.random.bits(typed, (2,), jnp.uint32)
    return words[0], words[1]
