"""What numbers depend on beside their inputs: versions, backend, visible CPUs."""

import importlib
import importlib.metadata
import os
import platform
from typing import Any

import jax

Environment = dict[str, Any]


def describe_environment() -> Environment:
    """Describes this process by what labels depend on, bit for bit.

    Returns:
        Versions, backend and kind of device, machine, number of visible CPUs (XLA's threads) and
        those settings of JAX that change numbers. The number of devices is not among them.
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
