"""Classes, functions and families that are not those of the package: loaded, or refused by name."""

import dataclasses
import functools
import json
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import Affine, Chain, RationalQuadraticSpline, Vmap

import nnef_dists as nd
from nnef_dists.saving import build_family, describe_family, family_differences
from nnef_dists.saving._names import has_fields, name_of, own_things
from nnef_dists.saving._save import load, save
from tests.registry import BIJECTIONS, FAMILIES
from tests.saving import strangers
from tests.saving.strangers import (
    Layer,
    Mode,
    Options,
    Pair,
    Quartic,
    Scaled,
    Steps,
    WithBase,
    cube,
)
from tests.saving.test_save import rewritten, set_metadata
from tests.test_architecture import equinox_classes

KEY = jax.random.key(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model"


def resaved(path, model, **arguments):
    save(path, model)
    return load(path, **arguments)


class TestNames:
    @pytest.mark.parametrize("name", equinox_classes())
    def test_all_classes_of_the_package_are_known(self, name):
        """Without registration: also those that a room does not export."""
        cls = equinox_classes()[name]
        assert own_things()[name_of(cls)] is cls

    def test_they_are_named_by_their_room(self):
        assert name_of(nd.BayesianMLP) == "nnef_dists.bayes:BayesianMLP"
        assert name_of(nd.networks.Standardization) == "nnef_dists.networks:Standardization"
        assert name_of(Affine) == "flowjax.bijections:Affine"
        assert name_of(jax.nn.silu) == "jax.nn:silu"

    def test_functions_of_the_table_lead_back(self):
        for name, thing in own_things().items():
            assert name_of(thing) == name or isinstance(thing, type)

    def test_classes_of_one_name_do_not_collide(self, path):
        other = dataclasses.make_dataclass("Pair", ["first", "second"], frozen=True)
        other.__module__ = "elsewhere"
        model = {"a": Pair(1, 2), "b": other(3, 4)}
        save(path, model)
        for classes in ((Pair,), (other,), (other, Pair)):
            if len(classes) == 2:
                assert load(path, classes=classes) == model
                continue
            missing = {Pair: r"elsewhere\.Pair", other: r"strangers\.Pair"}[classes[0]]
            with pytest.raises(ValueError, match=rf"Expected .*{missing}, which .* got Pair"):
                load(path, classes=classes)

    def test_a_class_may_move(self, path, monkeypatch):
        monkeypatch.setattr(Pair, "__module__", "__main__")
        save(path, Pair(1, 2))
        with pytest.raises(ValueError, match=r"classes=\(Pair,\)\)"):
            load(path)
        monkeypatch.undo()
        assert type(load(path, classes=(Pair,))) is Pair

    def test_a_name_of_two_things_is_refused(self, path):
        save(path, Pair(1, 2))
        twin = type("Pair", (), {"__module__": Pair.__module__})
        with pytest.raises(ValueError, match=r"one class or function called .*Pair; got two"):
            load(path, classes=(Pair, twin))


class TestArguments:
    def test_a_class_is_never_imported(self, path, monkeypatch):
        save(path, Layer(KEY))
        monkeypatch.delitem(sys.modules, strangers.__name__)
        with pytest.raises(ValueError, match="Nothing is imported because a file says so"):
            load(path)
        assert strangers.__name__ not in sys.modules

    def test_all_values_are_restored_exactly(self, path):
        layer = Layer(KEY)
        again = resaved(path, layer, classes=(Layer, Options, Mode), functions=(cube,))
        assert eqx.tree_equal(again.weight, layer.weight)
        assert type(again.pair) is Pair
        assert again.options == layer.options
        assert again.options.mode is Mode.SLOW
        assert (again.activation.func, again.activation.args) == (cube, ())
        assert again.kind is nd.GaussianParameter
        assert again.dtype == np.dtype("float16")
        assert type(again.options.rate) is np.float32

    @pytest.fixture(autouse=True)
    def pair_is_known(self, monkeypatch):
        """The named tuple within the layer, so that tests name the other classes alone."""
        found = own_things() | {name_of(Pair): Pair}
        monkeypatch.setattr("nnef_dists.saving._save.own_things", lambda: dict(found))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"classes": Layer}, r"tuple of classes; got .*Layer.*Write classes=\(\.\.\.,\)"),
            ({"classes": (cube,)}, r"Functions go to functions="),
            ({"functions": (Layer,)}, r"Classes go to classes="),
            ({"classes": (Quartic,)}, r"Expected family=Quartic\(\.\.\.\)"),
            ({"family": Quartic}, r"the class Quartic\. Call the class"),
            ({"family": (Quartic(), 3)}, r"family to be an instance of ExponentialFamily"),
            ({"family": Quartic()}, r"Expected no other family= for .*got family=Quartic"),
            ({"classes": (Layer, Options)}, r"needs; got Layer, Options\. .*functions=\(.*cube,\)"),
        ],
    )
    def test_wrong_ones_are_refused(self, arguments, message, path, without_type_checks):
        save(path, Layer(KEY))
        with pytest.raises(ValueError, match=message):
            load(path, **arguments)

    @pytest.mark.parametrize(
        "value", [Steps.UP, Steps.UP | Steps.DOWN, Steps(0), ~Steps.UP, Steps.BOTH | Steps.FAR]
    )
    def test_flags_may_be_combined(self, value, path):
        assert resaved(path, {"a": value}, classes=(Steps,))["a"] is value
        with pytest.raises(ValueError, match=r"as in like at \['a'\]"):
            load(path, like={"a": Steps.DOWN})

    def test_cached_properties_are_no_data(self, path):
        value = strangers.Cached(3)
        assert value.table == [0, 1, 2]
        again = resaved(path, value, classes=(strangers.Cached,))
        assert (again, again.table) == (value, value.table)

    def test_a_dict_may_have_any_keys(self, path):
        model = {"kind": "module", "class": "os:system", "fields": {"kind": None}}
        assert resaved(path, model) == model

    def test_changed_fields_are_refused(self, path):
        save(path, Options(1.0, Mode.FAST))
        newer = dataclasses.make_dataclass("Options", ["rate", "mode", "more"], frozen=True)
        with pytest.raises(ValueError, match=r"fields \['rate', 'mode', 'more'\] of Options"):
            load(path, classes=(newer, Mode))


class TestRefusedWhenSaving:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({1, 2}, r"at \['a'\]; got builtins\.set\. Files hold .*frozen dataclass"),
            (jax.tree_util.Partial(cube, jnp.ones(2)), None),
            ({1: 2}, "string keys"),
            (np.array(["text"]), "a dtype among"),
            (b"bytes", r"builtins\.bytes"),
            (np.ma.masked_array([1.0, 2.0], [False, True]), "ndarray at .*; got a MaskedArray"),
            (np.dtype(">f4"), "a value that a file can hold"),
            (strangers.Steps(8), r"a member of Steps at \['a'\]; got <Steps"),
            (strangers.Record(3), r"Record whose fields are all .*; got a subclass of dict"),
            (strangers.Prepared(3), r"Prepared whose fields are all .*; got other attributes: ta"),
            (1j, r"builtins\.complex"),
        ],
    )
    def test_what_no_call_would_load(self, value, message, path):
        if message is None:
            message = "a value that a file can hold .*Partial"
        with pytest.raises(ValueError, match=message):
            save(path, {"a": value})
        assert not list(path.parent.iterdir())

    def test_moment_data(self, path):
        with pytest.raises(ValueError, match=r"MomentDataset.*call its own method save"):
            save(path, strangers.labels(nd.Polynomial1D((1, 2))))


def decorated(function, factor):
    @functools.wraps(function)
    def scaled(x):
        return factor * function(x)

    return scaled


CAPTURES = {
    "keyword": lambda value: lambda x, *, s=value: s * x,
    "wrapper": lambda value: decorated(cube, value),
    "outer wrapper": lambda value: decorated(decorated(cube, 1), value),
    "inner wrapper": lambda value: decorated(decorated(cube, value), 1),
    "jit": lambda value: jax.jit(functools.partial(lambda s, x: s * x, value)),
    "set": lambda value: (lambda held: lambda x: x in held)(frozenset({value, "a", "b"})),
    "complex": lambda value: (lambda held: lambda x: x * held)(complex(value, 1)),
    "slice": lambda value: (lambda held: lambda x: x[held])(slice(None, None, value)),
    "bytes": lambda value: (lambda held: lambda x: held)(bytes([value])),
    "nested": lambda value: (lambda held: lambda x: held)((1j, [np.full(2000, value)])),
    "text": lambda value: (lambda held: lambda x: held)(np.array(2000 * [str(value)])),
    "module": lambda value: (lambda held: lambda x: held)(Pair({1}, jnp.full(3, value))),
    "library": lambda value: (lambda held: lambda x: held * value)(np),
}


class TestLike:
    """Functions without a name: their captured values are compared with those of the file."""

    @staticmethod
    def closure(factor, offset=0.0):
        shift = jnp.full(3, offset)

        def scale(x, depth=1):
            return factor * x + shift if depth == 0 else scale(x, depth - 1)

        return scale

    @pytest.mark.parametrize("activation", [closure(2.0), lambda x: x])
    def test_it_is_supplied(self, path, activation):
        layer = Layer(KEY, activation)
        save(path, layer)
        with pytest.raises(ValueError, match=r"Make a .*Layer as the saved one .*like=model\)"):
            load(path)
        again = load(path, like=Layer(jax.random.key(1), activation))
        assert jnp.array_equal(again(jnp.arange(3.0)), layer(jnp.arange(3.0)))

    @pytest.mark.parametrize("other", [closure(3.0), closure(2.0, 1.0), cube, lambda x: x])
    def test_another_is_refused(self, path, other):
        save(path, Layer(KEY, self.closure(2.0)))
        with pytest.raises(ValueError, match=r"as in like at activation\.func|activation\[0\]"):
            load(path, like=Layer(KEY, other))

    @pytest.mark.parametrize("name", CAPTURES)
    def test_captured_values_are_compared(self, path, name):
        make = CAPTURES[name]
        save(path, {"a": make(2)})
        again = make(2)
        assert load(path, like={"a": again})["a"] is again
        with pytest.raises(ValueError, match="one that captures other values"):
            load(path, like={"a": make(3)})

    def test_what_cannot_be_compared_is_refused(self, path):
        held = object.__new__(type("Held", (), {}))
        for function in (lambda x: held, decorated(cube, held), lambda x, *, s=(held,): s):
            with pytest.raises(ValueError, match=r"at \['a'\]; got one that .*Held.*__repr__"):
                save(path, {"a": function})
            with pytest.raises(ValueError, match=r"at \['a'\]; got one that .*Held.*__repr__"):
                save(path, {"a": decorated(function, 2.0)})

    @pytest.mark.parametrize("value", [cube, Options, Mode.FAST, lambda x: x, np.dtype("int8")])
    def test_a_number_in_its_place_is_refused(self, path, value):
        save(path, {"a": value})
        with pytest.raises(ValueError, match=r"as in like at \['a'\]"):
            load(path, like={"a": 3})


class TestFlows:
    @pytest.mark.parametrize("case", BIJECTIONS, ids=str)
    def test_bijections_need_no_argument(self, case, path):
        bijection = case.make(KEY)
        again = resaved(path, bijection)
        x = jnp.full(bijection.shape, 0.3)
        condition = None if bijection.cond_shape is None else jnp.full(bijection.cond_shape, 0.7)
        one, two = (b.transform_and_log_det(x, condition) for b in (bijection, again))
        assert eqx.tree_equal(one, two)

    def test_a_flow_of_a_users_family(self, path):
        family = Quartic()
        stack = Chain([Affine(), RationalQuadraticSpline(knots=3, interval=2, min_derivative=0.01)])
        size = nd.flows.conditioner_size(stack)
        net = eqx.nn.MLP(family.unconstrained_dim, size, 4, 1, key=KEY)
        etas = jnp.array([[0.0, -1.0], [1.0, -2.0]])
        conditioned = nd.flows.ConditionedBijection(stack, net, family.unconstrained_dim)
        flow = nd.flows.ConditionalFlow(family, conditioned, etas)
        save(path, flow)
        with pytest.raises(ValueError, match=r"family=tests.*Quartic\(order=4\)\)"):
            load(path)
        again = load(path, family=family)
        draws = [eqx.filter_jit(f.sample)(KEY, etas[0], 8) for f in (flow, again)]
        assert np.array_equal(*draws)

    def test_closures_are_data(self, path):
        """Compared with those of `like` as all else is, though they need none."""
        make = functools.partial(RationalQuadraticSpline, knots=3, interval=2)
        spline = Vmap(make(min_derivative=0.01), axis_size=2)
        again = resaved(path, spline)
        x = jnp.array([0.3, 1.5])
        assert jnp.array_equal(again.transform(x), spline.transform(x))
        assert jnp.array_equal(
            load(path, like=Vmap(make(min_derivative=0.01), axis_size=2)).transform(x),
            spline.transform(x),
        )
        with pytest.raises(ValueError, match=r"as in like at .*derivatives\.fn"):
            load(path, like=Vmap(make(min_derivative=0.02), axis_size=2))


class TestFamilies:
    @pytest.mark.parametrize("case", FAMILIES, ids=str)
    def test_those_of_the_package_need_no_argument(self, case, path):
        assert resaved(path, [case.make()]) == [case.make()]

    @pytest.mark.parametrize(
        "family", [Scaled(2, 0.1), Scaled(4, float("nan")), Quartic(), WithBase()]
    )
    def test_those_of_strangers(self, family, path):
        """Infinities, families, functions and constraints, whatever the constructor takes."""
        description = json.loads(json.dumps(describe_family(family)))
        built = build_family(description)
        assert repr(built) == repr(family)
        assert not family_differences(description, describe_family(built))
        assert resaved(path, [family], family=family) == [family]

    def test_arrays_are_refused_with_advice(self):
        for array in (np.ones(2), jnp.ones(2), np.int64(4)):
            with pytest.raises(ValueError, match=r"array in 'order'\. Use a tuple .*a\.item\(\)"):
                Quartic(array)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (Quartic(6), r"fields\.order: 4 in the file, 6 asked"),
            (WithBase(), r"Expected .*Quartic\(order=4\) for .*; got family=WithBase\(\)"),
            (nd.Gamma(), r"got family=Gamma\(\)"),
        ],
    )
    def test_a_wrong_one_is_refused_by_name(self, given, message, path):
        save(path, strangers.amortized(Quartic()))
        with pytest.raises(ValueError, match=message):
            load(path, family=given)

    def test_changed_formulas_are_refused(self, path, monkeypatch):
        save(path, [Quartic()])

        class Quartic2(nd.ExponentialFamily):
            order: int = 4
            x_shape = ()
            natural_domain = nd.domain(top=nd.negative)

            def compute_stats(self, x):
                return {"x": x, "top": 2 * x**self.order}

        Quartic2.__qualname__ = "Quartic"
        with pytest.raises(ValueError, match=r"Expected the family of the file.*\n.*have changed"):
            load(path, family=Quartic2())

    @staticmethod
    def changeable(top, log_h=0.0):
        class Changeable(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain(top=nd.negative)

            def compute_stats(self, x):
                return {"x": jnp.stack([x, x]), "top": top(x)}

            def log_base_measure(self, x):
                return log_h + 0 * x

        return Changeable()

    @pytest.mark.parametrize(
        ("stored", "asked"),
        [
            ((lambda x: 1e-4 * x**2,), (lambda x: 1e-4 * x**4,)),
            ((lambda x: 1e-20 * x**2,), (lambda x: 1.001e-20 * x**2,)),
            ((lambda x: x**2,), (lambda x: 1.009 * x**2,)),
            ((lambda x: x**2, -1000.0), (lambda x: x**2, -1000.1)),
            ((lambda x: x**2, -1.0), (lambda x: x**2, -jnp.inf)),
            ((lambda x: x**2,), (lambda x: x**2 / 0,)),
        ],
    )
    def test_small_changes_of_formulas_are_noticed(self, stored, asked):
        one, two = (describe_family(self.changeable(*how)) for how in (stored, asked))
        for pair in ((one, two), (two, one)):
            assert "formulas have changed" in family_differences(*pair)[0]
        assert not family_differences(one, one)
        assert not family_differences(two, two)

    def test_rounding_is_no_change_of_formulas(self):
        """Also that of a difference of terms a hundred times larger, and of half as many digits."""
        one, two = (
            describe_family(self.changeable(lambda x, c=c: (x**2 + c) - c, log_h))
            for c, log_h in ((0.0, -1e4), (100.0, -1e4 * (1 + 1e-6)))
        )
        assert one["probe"] != two["probe"]
        assert not family_differences(one, two)
        short = {**one, "probe": [f"{float(value):.6e}" for value in one["probe"]]}
        assert not family_differences(short, two)

    def test_a_whole_or_an_inner_family(self, path):
        q = nd.Quadrature(nd.families.BaseMeasureAsStatistic(WithBase(), 0.5, 2.0))
        save(path, q)
        assert load(path, family=WithBase()) == load(path, family=q.family) == q

    def test_of_this_package_with_wrong_fields(self, path):
        """A file cannot make what the class would not be."""

        def change(structure, metadata, arrays):
            structure[0]["fields"]["powers"] = ["a"]

        save(path, (nd.Polynomial1D((1, 2)),))
        path.write_bytes(rewritten(change)(path.read_bytes()))
        with pytest.raises(ValueError, match="Expected"):
            load(path)


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "message"),
        [
            ("3", r"version 2; got the newer version 3 .*nnef_dists 0\..*Upgrade nnef_dists"),
            ("1", r"version 2; got the older version 1 .*nnef_dists 0\..*Load it with that"),
        ],
    )
    def test_others_are_refused(self, version, message, path):
        save(path, jnp.ones(2))
        path.write_bytes(rewritten(set_metadata("version", version))(path.read_bytes()))
        with pytest.raises(ValueError, match=message):
            load(path)


def test_partitions_are_refused_with_the_line_that_joins_them(path):
    q = strangers.amortized(nd.Polynomial1D((1, 2)))
    for part in (*nd.freeze_stdvs(q), *nd.freeze_means(q)):
        with pytest.raises(ValueError, match=re.escape("nd.unfreeze_all(dynamic, static)")):
            save(path, part)
    save(path, nd.unfreeze_all(*nd.freeze_stdvs(q)))
    assert eqx.tree_equal(load(path), q)


def test_fields_are_those_of_dataclasses_and_named_tuples():
    assert has_fields(Pair)
    assert has_fields(Options)
    assert not has_fields(Mode)
