import hashlib
import json
import math
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
import safetensors.numpy
from flowjax.bijections import Affine
from flowjax.utils import get_ravelled_pytree_constructor

from nnef_dists.bayes import (
    BayesianLinear,
    BayesianMLP,
    ExponentialPositivity,
    LaplacianParameter,
    SoftplusPositivity,
    bayesianize,
)
from nnef_dists.saving import load, save
from tests.bayes.laws import MODELS, Mixed, SeedMLP, UniformParameter

KEY = jax.random.key(0)


def small():
    return BayesianLinear(3, 2, key=KEY)


def everything():
    return {
        "model": BayesianMLP(
            3, 2, 4, 1, activation=jnp.tanh, positivity=SoftplusPositivity(0.1), key=KEY
        ),
        "laws": (LaplacianParameter.from_scale(0.0, 1.0, ExponentialPositivity()), None, []),
        "buffer": paramax.NonTrainable(jnp.arange(3.0)),
        "arrays": [
            np.arange(3, dtype=np.int8),
            jnp.array([math.inf, math.nan, -0.0], jnp.float16),
            jnp.ones((2, 0), jnp.bfloat16),
            jnp.array(True),
            jnp.array(3, jnp.uint32),
        ],
        "key": KEY,
        "static": [True, -3, 1e-300, math.inf, "text \u00e9"],
    }


def bits(tree):
    """Every leaf as type, dtype, shape and bytes, so that NaN equals itself."""

    def describe(leaf):
        if not eqx.is_array(leaf):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return isinstance(leaf, jax.Array), str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()

    return [describe(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("make", [everything, *MODELS.values()])
def test_round_trip_is_exact_and_self_contained(path, make):
    model = make()
    save(path, model)
    again = load(path)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert bits(again) == bits(model)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_loaded_model_computes_the_same(path):
    model = BayesianMLP(3, 2, 4, 1, residual=True, key=KEY)
    save(path, model)
    x = jnp.ones(3)
    again = load(path)
    assert jnp.array_equal(again(x), model(x))
    assert jnp.array_equal(again(x, key=KEY), model(x, key=KEY))


FOREIGN = {
    "user's model": lambda key: SeedMLP([3, 4, 1], key=key),
    "user's law": lambda key: Mixed(),
}


def _cube(x):
    return x**3


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_classes_come_from_like_or_by_name(path, name):
    model, other = (FOREIGN[name](jax.random.key(seed)) for seed in (0, 1))
    save(path, model)
    assert eqx.tree_equal(load(path, like=other), model)
    assert eqx.tree_equal(load(path, classes=(SeedMLP, Mixed, UniformParameter)), model)


def test_layers_of_equinox_need_no_argument(path):
    model = bayesianize(eqx.nn.MLP(2, 2, 4, 1, key=KEY))
    save(path, model)
    assert eqx.tree_equal(load(path), model)


def constructor_with_a_lambda():
    """A closure of flowjax's layers, over a bijection that holds a lambda."""
    scale = paramax.Parameterize(lambda raw: jnp.exp(2 * raw), jnp.zeros(2))
    bijection = eqx.tree_at(lambda b: b.scale, Affine(jnp.zeros(2)), scale)
    return get_ravelled_pytree_constructor(
        bijection,
        filter_spec=eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )[0]


def test_lambdas_within_closures_come_from_like(path):
    model = {"constructor": constructor_with_a_lambda()}
    save(path, model)
    again = load(path, like={"constructor": constructor_with_a_lambda()})
    scales = [paramax.unwrap(m["constructor"](jnp.arange(4.0))).scale for m in (model, again)]
    assert scales[0].max() > 100
    assert jnp.array_equal(*scales)
    with pytest.raises(ValueError, match=r"A file holds no lambda .* like=model"):
        load(path)
    for other in (jnp.tanh, 1.0):
        with pytest.raises(ValueError, match=r"as in like at \['constructor'\]"):
            load(path, like={"constructor": other})


MISMATCHES = {
    "size": (lambda: BayesianLinear(3, 4, key=KEY), r"\[4, 3\] as in like at W.mean"),
    "dtype": (
        lambda: BayesianLinear(3, 2, dtype=jnp.float16, key=KEY),
        r"float16\[2, 3\] as in like at W.mean",
    ),
    "law": (
        lambda: BayesianLinear(3, 2, param_type=LaplacianParameter, key=KEY),
        "LaplacianParameter as in like at W; got .*GaussianParameter",
    ),
    "class": (lambda: BayesianMLP(3, 2, 4, 1, key=KEY), "BayesianMLP as in like"),
    "bias": (lambda: BayesianLinear(3, 2, use_bias=False, key=KEY), "as in like at b"),
    "static": (
        lambda: BayesianLinear(3, 2, local_reparameterization=True, key=KEY),
        "True as in like at local_reparameterization; got False",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_different_like_is_refused_by_place(path, name):
    save(path, small())
    other, message = MISMATCHES[name]
    with pytest.raises(ValueError, match=message):
        load(path, like=other())


def test_a_failed_save_leaves_the_older_file(path):
    save(path, small())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="string keys"):
        save(path, {1: jnp.ones(2)})
    assert path.read_bytes() == before


# Damage: functions from the bytes of a good file to those of a bad one.


def header_length(content):
    return struct.unpack("<Q", content[:8])[0]


def flip(position, bit=0):
    def damage(content):
        index = position(content) if callable(position) else position
        changed = bytearray(content)
        changed[index] ^= 1 << bit
        return bytes(changed)

    return damage


def rewritten(change, *, sign=True):
    """A well-formed file with another structure; `sign` makes its checksum right."""

    def damage(content):
        length = header_length(content)
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        arrays = safetensors.numpy.load(content)
        structure = json.loads(metadata["structure"])
        changed = change(structure, metadata, arrays)
        metadata["structure"] = changed if isinstance(changed, str) else json.dumps(structure)
        if sign:
            metadata["sha256"] = digest(metadata, arrays)
        return safetensors.numpy.save(arrays, metadata)

    return damage


def digest(metadata, arrays):
    total = hashlib.sha256()
    parts = [metadata[name].encode() for name in ("version", "writer", "structure")]
    for name in sorted(arrays):
        parts += [name.encode(), arrays[name].tobytes()]
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def set_field(*place, value):
    def change(structure, metadata, arrays):
        node = structure
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = value

    return change


def exchange_arrays(structure, metadata, arrays):
    first, second = "000000:W.mean", "000001:W.raw_stdv"
    arrays[first], arrays[second] = arrays[second], arrays[first]


def set_metadata(name, value):
    return lambda structure, metadata, arrays: metadata.__setitem__(name, value)


W = ("fields", "W")
MEAN = (*W, "fields", "mean")

CONSTRUCTOR = "flowjax.utils:get_ravelled_pytree_constructor.<locals>.constructor"


def closure(items):
    return {"kind": "closure", "name": CONSTRUCTOR, "items": {"kind": "dict", "items": items}}


DAMAGE = {
    "bit flip in the length": flip(0),
    "huge length": flip(7, 6),
    "bit flip in the header": flip(40),
    "bit flip in the structure": flip(lambda c: c.index(b"in_features") + 3),
    "bit flip in a static number": flip(lambda c: c.index(b'in_features\\":3') + 14),
    "bit flip in the checksum": flip(lambda c: c.index(b"sha256") + 12),
    "bit flip in the first weight": flip(lambda c: 8 + header_length(c)),
    "bit flip in the last weight": flip(lambda c: len(c) - 1, 7),
    "empty file": lambda c: b"",
    "truncated length": lambda c: c[:5],
    "truncated header": lambda c: c[:100],
    "truncated arrays": lambda c: c[:-1],
    "trailing bytes": lambda c: c + b"\0",
    "not safetensors at all": lambda c: b"\x80\x04cos\nsystem\n(S'true'\ntR." * 30,
    "a plain safetensors file": lambda c: safetensors.numpy.save({"W": np.ones(3)}),
    "a version that is no number": rewritten(set_metadata("version", "two")),
    "bit flip in the writer": flip(lambda c: c.index(b"nnef_dists 0") + 3),
    "wrong format": rewritten(set_metadata("format", "other")),
    "changed without the checksum": rewritten(
        set_field("fields", "in_features", value=4), sign=False
    ),
    "two arrays exchanged": rewritten(exchange_arrays, sign=False),
    "an array missing": rewritten(lambda s, m, a: a.clear()),
    "an unknown class": rewritten(set_field("class", value="os:system")),
    "a class to import": rewritten(set_field("class", value="subprocess:Popen")),
    "a function to call": rewritten(
        set_field("fields", "in_features", value={"kind": "function", "class": "os:system"})
    ),
    "an unknown kind": rewritten(set_field("kind", value="pickle")),
    "a field too many": rewritten(set_field("fields", "__class__", value=None)),
    "a mean that is text": rewritten(set_field(*MEAN, value="x")),
    "a size that is not the weights'": rewritten(set_field("fields", "in_features", value=7)),
    "a size that is text": rewritten(set_field("fields", "in_features", value="3")),
    "a huge shape": rewritten(set_field(*MEAN, "shape", value=[10**30, 10**30])),
    "a huge empty shape": rewritten(set_field(*MEAN, "shape", value=[10**30, 0])),
    "a negative shape": rewritten(set_field(*MEAN, "shape", value=[-2, -3])),
    "an unknown dtype": rewritten(set_field(*MEAN, "dtype", value="object")),
    "a positivity that is none": rewritten(set_field(*W, "fields", "positivity", value=None)),
    "deep nesting": rewritten(lambda s, m, a: "[" * 100_000 + "]" * 100_000),
    "a module that is no class": rewritten(set_field("class", value="jax.nn:relu")),
    "a class of another kind": rewritten(set_field("class", value="nnef_dists.moments:Status")),
    "a constructor of nothing": rewritten(
        set_field("fields", "in_features", value={"kind": "closure", "name": CONSTRUCTOR})
    ),
    "a constructor of a number": rewritten(
        set_field("fields", "in_features", value=closure({"bijection": 3}))
    ),
    "a partial of no function": rewritten(
        set_field("fields", "in_features", value={"kind": "partial", "items": [3, [], {}]})
    ),
    "a structure that is no JSON": rewritten(lambda s, m, a: "{"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_hostile_files_are_refused(path, name):
    save(path, small())
    good = path.read_bytes()
    bad = DAMAGE[name](good)
    assert bad != good
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"^Expected .*got "):
        load(path)


def test_no_single_bit_matters_silently(path):
    # Every bit of a small file in turn would take minutes: a stride that is coprime to 8 instead.
    model = {"a": jnp.arange(2.0)}
    save(path, model)
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 13):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            again = load(path)
        except ValueError:
            continue
        assert eqx.tree_equal(again, model), f"bit {bit}"


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64", "complex128"])
def test_wide_dtypes_are_not_narrowed_silently(path, dtype):
    save(path, {"a": jnp.zeros(2)})
    wide = rewritten(
        lambda s, m, a: (
            set_field("items", "a", "dtype", value=dtype)(s, m, a),
            a.update({name: np.zeros(2, dtype).view(np.uint8) for name in a}),
        )[0]
    )
    path.write_bytes(wide(path.read_bytes()))
    if jax.config.jax_enable_x64:
        assert load(path)["a"].dtype == dtype
    else:
        with pytest.raises(ValueError, match="64-bit mode"):
            load(path)


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">c16", ">f2"])
def test_other_byte_orders_become_native(path, dtype):
    model = {"a": np.array([1, 2, -3], dtype)}
    save(path, model)
    for again in (load(path), load(path, like=model)):
        assert again["a"].dtype == model["a"].dtype.newbyteorder("=")
        assert again["a"].tolist() == [1, 2, -3]


def test_a_missing_file_is_not_found(path):
    with pytest.raises(FileNotFoundError):
        load(path)
