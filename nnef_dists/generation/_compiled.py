"""Compiled programs that later processes reuse."""

import os
from pathlib import Path

import jax

from nnef_dists.storage import visible_cpus


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache, so that a second run compiles nothing.

    The programs of this process and of those that it starts are kept in
    `nnef_dists/compiled-<number of CPUs>` of the user's cache folder (`$XDG_CACHE_HOME`, or
    `~/.cache`), which may be deleted at any time. Every program is kept, however fast it compiles.
    What the environment sets stays as it is, for example another folder in
    `JAX_COMPILATION_CACHE_DIR` (none at all, if that is empty).

    This is a function for scripts, called before anything is compiled: it changes the global
    configuration of JAX, which importing nnef_dists does not. `python -m nnef_dists` calls it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # Programs are partitioned for the CPUs that their process may use.
    folder = cache / "nnef_dists" / f"compiled-{visible_cpus()}"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
            # Processes that this one starts read the environment.
            os.environ[name.upper()] = str(value)
