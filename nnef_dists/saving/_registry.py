"""What a file may name: classes and functions that loading restores by name."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import paramax

from nnef_dists.bayes import (
    Bayesianized,
    BayesianLinear,
    BayesianMLP,
    DeterministicParameter,
    ExponentialPositivity,
    GaussianParameter,
    LaplacianParameter,
    SoftplusPositivity,
    SquaredPositivity,
)

_Class = TypeVar("_Class", bound=type)

_CLASSES: dict[str, type] = {}

_FUNCTIONS = {
    f"{prefix}.{name}": getattr(namespace, name)
    for prefix, namespace, names in (
        (
            "jax.nn",
            jax.nn,
            "celu elu gelu hard_tanh identity leaky_relu log_sigmoid mish relu relu6 selu "
            "sigmoid silu soft_sign softmax softplus squareplus",
        ),
        ("jax.numpy", jnp, "abs arcsinh cos exp log1p sin sinh square tanh"),
    )
    for name in names.split()
}


def register_saveable(cls: _Class) -> _Class:
    """Lets `load` restore a module class by its name; use as a decorator.

    A class is restored from its fields, without calling `__init__`; its `__check_init__` runs. So
    is a frozen dataclass, which runs its `__post_init__`.
    Registering is for classes that everyone who loads will have imported. Any other class
    loads through `like=`.

    Args:
        cls: A final module class, or a frozen dataclass.

    Returns:
        The class itself.

    Raises:
        ValueError: If another class has the name, or it is neither.
    """
    if "__dataclass_fields__" not in vars(cls):
        raise ValueError(f"Expected a module class or a frozen dataclass; got {cls!r}.")
    if _CLASSES.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"Expected a class name that is free; got {cls.__name__!r} again.")
    return cls


def class_named(name: str) -> type | None:
    """Returns the registered class of a name, or None."""
    return _CLASSES.get(name)


def name_of_class(cls: type) -> str | None:
    """Returns the name of a registered class, or None."""
    return cls.__name__ if _CLASSES.get(cls.__name__) is cls else None


def function_named(name: str) -> Any:
    """Returns the function of a name that files may use, or None."""
    return _FUNCTIONS.get(name)


def name_of_function(value: Any) -> str | None:
    """Returns the name of such a function, or None."""
    return next((name for name, function in _FUNCTIONS.items() if function is value), None)


for _cls in (
    BayesianLinear,
    BayesianMLP,
    Bayesianized,
    DeterministicParameter,
    ExponentialPositivity,
    GaussianParameter,
    LaplacianParameter,
    SoftplusPositivity,
    SquaredPositivity,
    paramax.NonTrainable,
):
    register_saveable(_cls)
