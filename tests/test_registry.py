"""The registry is complete, and names what it lists."""

import equinox as eqx
import pytest

import nnef_dists as nd
from tests.registry import BIJECTIONS, FAMILIES, HEADS, NETWORKS, class_of, registered_classes


def is_abstract(cls: type) -> bool:
    """Whether an Equinox class has abstract methods or attributes."""
    return bool(cls.__abstractmethods__ | cls.__abstractvars__ | cls.__abstractclassvars__)


def public_concrete_modules(namespace) -> set[type]:
    """The exported Equinox modules that can be instantiated."""
    exported = (getattr(namespace, name) for name in namespace.__all__)
    return {
        thing
        for thing in exported
        if isinstance(thing, type) and issubclass(thing, eqx.Module) and not is_abstract(thing)
    }


@pytest.mark.parametrize(
    "namespace", [nd.families, nd.networks, nd.flows, nd.posterior], ids=lambda m: m.__name__
)
def test_every_public_final_class_is_registered(namespace):
    missing = public_concrete_modules(namespace) - registered_classes()
    assert not missing, f"add to tests/registry.py: {sorted(cls.__name__ for cls in missing)}"


def test_a_missing_class_is_noticed():
    without_polynomials = [c for c in FAMILIES if not isinstance(c.make(), nd.Polynomial1D)]
    assert registered_classes() - registered_classes(without_polynomials) == {nd.Polynomial1D}
    assert nd.Polynomial1D in public_concrete_modules(nd.families)


def test_abstract_classes_are_not_asked_for():
    assert nd.ExponentialFamily not in public_concrete_modules(nd.families)
    assert nd.networks.AbstractMomentNetwork not in public_concrete_modules(nd.networks)


def test_names_are_unique_and_those_of_classes():
    for cases in (FAMILIES, NETWORKS, BIJECTIONS, HEADS):
        names = [case.name for case in cases]
        assert len(set(names)) == len(names)
        assert all(isinstance(class_of(name), type) for name in names)


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_every_closed_form_has_a_reference(case):
    """The family's own formulas are not taken on trust."""
    assert case.has_closed_form == (case.reference is not None)
