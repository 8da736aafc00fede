"""check_family on families as strangers would bring them: each fault is named, none is invented."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import AbstractBijection, Exp

import nnef_dists as nd

KEY = jax.random.key(3)
INF = math.inf


def family(stats, x_shape=(), domain=None, **members):
    """A family of a stranger, from its statistics; `members` are methods and properties."""
    members = {
        "x_shape": x_shape,
        "natural_domain": nd.domain() if domain is None else domain,
        "compute_stats": lambda self, x: stats(x),
        "__annotations__": {},
        **members,
    }
    return type("Stranger", (members.pop("base", nd.ExponentialFamily),), members)()


def named(report, severity=None):
    return {f.name for f in report.findings if severity in (None, f.severity)}


def only(report, name):
    found = [f for f in report.findings if f.name == name]
    assert len(found) == 1, report
    return found[0]
