import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from nnef_dists.bayes import GaussianParameter, LaplacianParameter
from nnef_dists.bayes._noise import draw_noise, normal_pair, threefry2x32, uniform_pair

# Known answers of Random123's kat_vectors: (key, counter, result).
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def u32(pair):
    return tuple(jnp.asarray(word, jnp.uint32) for word in pair)


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_threefry_gives_the_known_answers(key, counter, expected):
    assert tuple(int(word) for word in threefry2x32(u32(key), u32(counter))) == expected


def test_uniforms_are_uniform_and_independent():
    u, v = uniform_pair(u32((1, 2)), jnp.arange(100_000, dtype=jnp.uint32), jnp.zeros(()).dtype)
    for sample in (u, v):
        law = scipy.stats.uniform(-1, 2)
        assert scipy.stats.kstest(np.asarray(sample, np.float64), law.cdf).pvalue > 1e-3
    n = u.size
    assert abs(float(jnp.mean(u * v))) < 4 / 3 / np.sqrt(n)
    assert abs(float(jnp.mean(u[1:] * u[:-1]))) < 4 / 3 / np.sqrt(n)


@pytest.mark.parametrize("law", [GaussianParameter, LaplacianParameter])
def test_noise_is_finite_at_the_ends_of_the_grid(law):
    ends = jnp.array([-(1 - 2.0**-23), -(2.0**-23), 2.0**-23, 1 - 2.0**-23], jnp.float32)
    u, v = (grid.ravel() for grid in jnp.meshgrid(ends, ends))
    assert all(jnp.isfinite(noise).all() for noise in jax.jit(law.standard_noise)(u, v))


def test_the_grid_leaves_out_its_ends(monkeypatch):
    # All bits clear and all bits set, compiled: constants may be rearranged there.
    from nnef_dists.bayes import _noise

    def extreme(key, counter):
        return counter[1], ~counter[1]

    monkeypatch.setattr(_noise, "threefry2x32", extreme)
    run = jax.jit(lambda c: _noise.uniform_pair(u32((0, 0)), c, jnp.float32))
    u, v = run(jnp.array([0, 0x80000000], jnp.uint32))
    np.testing.assert_array_equal(u, np.float32([-(1 - 2.0**-23), 2.0**-23]))
    np.testing.assert_array_equal(v, np.float32([1 - 2.0**-23, -(2.0**-23)]))


def test_normal_pair_is_polar():
    u = jnp.full((101,), 2 * np.exp(-0.5) - 1)  # radius 1
    v = jnp.linspace(-1.0, 1.0, 101)
    x, y = normal_pair(u, v)
    eps = float(jnp.finfo(u.dtype).eps)
    np.testing.assert_allclose(x, np.cos(np.pi * np.asarray(v, np.float64)), atol=8 * eps)
    np.testing.assert_allclose(y, np.sin(np.pi * np.asarray(v, np.float64)), atol=8 * eps)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_noise_has_every_length(size):
    noise = draw_noise(jax.random.key(0), normal_pair, size, jnp.float32)
    assert noise.shape == (size,)
    assert len(np.unique(noise)) == size


def test_keys_of_every_kind():
    keys = [
        jax.random.key(0),
        jax.random.PRNGKey(0),
        jax.random.key(0, impl="rbg"),
        jax.random.key(1, impl="rbg"),
    ]
    rows = [np.asarray(draw_noise(key, normal_pair, 8, jnp.float32)) for key in keys]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert len({row.tobytes() for row in rows}) == 3
