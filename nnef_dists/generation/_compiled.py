"""Persistent cache of compiled programs."""

import os
from pathlib import Path

import jax

from nnef_dists.storage import visible_cpus


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache, so that a second run compiles nothing.

    Programs of this process and its child processes are stored in
    `nnef_dists/compiled-<number of CPUs>`. This folder is in the cache folder of the user
    (`$XDG_CACHE_HOME`, or `~/.cache`), and may be deleted at any time. Every program is stored,
    however short its compile time. Environment variables take precedence, for example another
    folder in `JAX_COMPILATION_CACHE_DIR`. If this variable is empty, there is no cache.

    Scripts should call this function before they compile anything. It changes the global
    configuration of JAX, unlike the import of nnef_dists. `python -m nnef_dists` calls it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # Compiled programs depend on the number of CPUs that their process may use.
    folder = cache / "nnef_dists" / f"compiled-{visible_cpus()}"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
            # Child processes read the environment.
            os.environ[name.upper()] = str(value)
