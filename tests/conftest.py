"""Set-up that every test shares."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile
import threading

# Before anything imports them: no window is ever opened, and no cache is left in the checkout.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis")
)
# Code that compiles in half the time, here and in the processes that tests start. XLA ends programs
# that pass a flag unknown to it, so only for versions that are known to have it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

# Compiled programs are shared by workers, by processes that tests start, and by the same small
# operations that caches in memory lose; by later sessions too, in a folder that outlives this one.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Programs that carry no lines of source compile faster: only their printed form would show them.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import pytest
from hypothesis import settings
from jax._src.interpreters import mlir
from jaxtyping import config as jaxtyping_config

settings.register_profile("pinned", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("pinned")
# Half the time to slower code, but where programs are to be those of users.
jax.config.update("jax_disable_most_optimizations", True)
# Importing makes half a million objects that stay: no full collection should look at them again.
gc.disable()


# JAX makes a context of MLIR for each program, which takes longer than lowering a small one, and
# keeps 1 MB. Programs share one here, as lowering allows: a fifth of the time of small programs.
_make_context, _shared = mlir.make_ir_context, threading.local()


def _context():
    """Returns the context of this thread: a new one for every 200 programs, to free constants."""
    if getattr(_shared, "uses", 200) == 200:
        _shared.context, _shared.uses = _make_context(), 0
    _shared.uses += 1
    return _shared.context


mlir.make_ir_context = _context


# Files that take longest come first, so that workers end together.
LONG = (
    "test_compiled.py",
    "test_control_variates.py",
    "test_documentation.py",
    "test_hmc.py",
    "test_heads.py",
    "test_ladder.py",
    "test_examples.py",
    "test_workers.py",
    "test_networks.py",
    "test_bijections.py",
    "test_convex.py",
    "test_inverse_trained.py",
    "test_oracle.py",
    "test_training.py",
    "test_strangers.py",
    "test_base.py",
    "test_symmetric.py",
    "test_plane.py",
)


# Tests of programs as users have them, and of a large one that compiles faster with optimizations.
AS_BY_USERS = ("test_labels_of_users.py", "test_hierarchical_gamma.py")


def pytest_collection_modifyitems(items):
    """Puts long files first, and leaves the order of their tests."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish():
    """Collects garbage from here on, among what tests make."""
    gc.collect()
    gc.freeze()
    # Tracing makes many objects that live on: a collection for each 700 of them finds little.
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _programs(request):
    is_as_by_users = request.path.name in AS_BY_USERS
    jax.config.update("jax_disable_most_optimizations", not is_as_by_users)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    # A process may map 65,530 pieces of memory on Linux, and every compiled program maps some.
    if _mapped_pieces() > 25_000:
        jax.clear_caches()
        gc.collect()


def _mapped_pieces() -> int:
    """Returns how many pieces of memory this process maps: 0 where the system does not tell."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return 0


@pytest.fixture
def strict_promotion():
    """Arrays of different dtypes must not meet in our own functions."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def without_type_checks(monkeypatch):
    """What a user without runtime type checks sees: the package's own errors."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
