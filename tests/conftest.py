"""Set-up that every test shares."""

import importlib.metadata
import os
import tempfile

# Before anything imports them: no window is ever opened, and no cache is left in the checkout.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis")
)
# Code that compiles in half the time, here and in the processes that tests start. XLA ends programs
# that pass a flag unknown to it, so only for versions that are known to have it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
    )

import jax
import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config

settings.register_profile("pinned", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("pinned")


@pytest.fixture(scope="module", autouse=True)
def _small_programs_compile_quickly(request):
    """Compiling takes most of the time of small programs; most moments are labelled as by users."""
    small = {
        "amortized",
        "bayes",
        "flows",
        "families",
        "networks",
        "posterior",
        "test_checks.py",
        "test_compiled.py",
        "test_messages.py",
        "test_control_variates.py",
        "test_documentation.py",
        "test_examples.py",
        "test_ladder.py",
        "test_log_partition.py",
    }
    if small.isdisjoint(request.path.parts):
        yield
        return
    from tests.families.checks import quick_compilation

    with quick_compilation():
        yield


@pytest.fixture
def strict_promotion():
    """Arrays of different dtypes must not meet in our own functions."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def without_type_checks(monkeypatch):
    """What a user without runtime type checks sees: the package's own errors."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
