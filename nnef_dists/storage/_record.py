"""Records of environments and keys as plain data, and differences between records."""

import importlib
import importlib.metadata
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

Environment = dict[str, Any]
KeyData = dict[str, Any]


def describe_environment() -> Environment:
    """Describes all properties of this process that affect the bits of results.

    Returns:
        Versions, backend and kind of device, machine, number of visible CPUs (XLA's threads) and
        the settings of JAX that affect results. The number of devices is excluded.
    """
    device = jax.local_devices()[0]
    packages = ("jax", "jaxlib", "blackjax", "flowjax")
    versions = {name: importlib.metadata.version(name) for name in packages}
    options = ("jax_enable_x64", "jax_threefry_partitionable", "jax_default_matmul_precision")
    return {
        "versions": {
            # A checkout that is not installed has no metadata.
            "nnef_dists": importlib.import_module("nnef_dists").__version__,
            **versions,
        },
        "backend": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "cpus": visible_cpus(),
        "settings": {name: getattr(jax.config, name) for name in options},
    }


def visible_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pack_key(key: PRNGKeyArray) -> KeyData:
    """Returns a `jax.random.key` as plain data.

    Raises:
        ValueError: If `key` is not one typed PRNG key.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise ValueError(f"Expected one jax.random.key; got {key.dtype} of shape {key.shape}")
    return {
        "impl": str(jax.random.key_impl(key)),
        "data": np.asarray(jax.random.key_data(key)).tolist(),
    }


def unpack_key(packed: KeyData) -> PRNGKeyArray:
    """Returns the key from the data of `pack_key`."""
    data = jnp.asarray(packed["data"], jnp.uint32)
    return jax.random.wrap_key_data(data, impl=packed["impl"])


def differences(
    stored: Any, asked: Any, place: str = "", *, source: str = "the store"
) -> list[str]:
    """Lists differences of two nested dicts: `config.draws: 250 in the store, 500 asked`."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        found = []
        for name in (*stored, *(name for name in asked if name not in stored)):
            where = f"{place}.{name}" if place else str(name)
            found += differences(stored.get(name), asked.get(name), where, source=source)
        return found
    if stored == asked and type(stored) is type(asked):
        return []
    return [f"{place}: {_short(stored)} in {source}, {_short(asked)} asked"]


def join_lines(lines: list[str]) -> str:
    """Joins lines with an indent, to follow a message."""
    return "\n".join(f"  {line}" for line in lines)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
