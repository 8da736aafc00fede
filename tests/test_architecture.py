"""Rules on the code itself: who may import whom, abstract or final, sizes, names."""

import ast
import functools
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import pytest

import nnef_dists as nd

PACKAGE = Path(nd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((Path(__file__).parent / "benchmarks").glob("bench_*.py"))
SUBPACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

# What a room may import of the others: of those above it alone, so that arrows run one way.
# Nothing imports plotting and __main__.
MAY_IMPORT = {
    "families": set(),
    "storage": set(),
    "bayes": set(),
    "diagnostics": set(),
    "sampling": {"families"},
    "saving": {"families", "storage", "bayes"},
    "moments": {"families", "sampling", "storage", "saving"},
    "networks": {"families", "moments", "bayes"},
    "generation": {"families", "sampling", "storage", "saving", "moments"},
    "distributions": {"families", "sampling", "moments", "bayes", "networks"},
    "inference": {"families", "sampling", "distributions"},
    "flows": {"families", "sampling"},
    "posterior": {"storage", "bayes", "sampling", "distributions"},
}
ROOMS = list(MAY_IMPORT)
MAY_IMPORT["plotting"] = MAY_IMPORT["__main__"] = {*MAY_IMPORT, ""}
MAY_IMPORT[""] = set(MAY_IMPORT) - {"plotting", "__main__"}

# Private modules beside the rooms, which every room may import. They import none.
COMMON = {"_checks", "_factorizations", "_ranges"}

FAMILIES_BUILD_ON = {"equinox", "flowjax", "jax", "jaxtyping", "numpy"}

LONGEST = 320

# Twenty of these are names that users of BayesianJaxModels know.
MOST_FLAT_NAMES = 80

# Meant to be subclassed by users, like equinox.Module itself: no fields, no call.
OPEN_BASES = {nd.Module}


def relative_name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def package_of(path: Path) -> str:
    """The subpackage of a file; `__main__`, or the empty string at the top level."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if len(parts) > 1:
        return parts[0]
    return parts[0] if parts[0] == "__main__" else ""


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    """Absolute names of all that a file imports, `from` imports with the name imported."""
    source = path.read_text()
    inside = path.is_relative_to(PACKAGE)
    here = ("nnef_dists", *path.relative_to(PACKAGE).parent.parts) if inside else ()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def internal_packages(path: Path) -> set[str]:
    """The subpackages that a file imports; the empty string for the top level itself."""
    found = set()
    for name in imported_modules(path):
        top, _, rest = name.partition(".")
        if top == "nnef_dists":
            first = rest.partition(".")[0]
            if first not in COMMON:
                found.add(first if first in SUBPACKAGES or first == "__main__" else "")
    return found - {package_of(path)}


def foreign_private_modules(path: Path) -> set[str]:
    """The names that a file imports past another room's face, by their full names."""
    found = set()
    for name in imported_modules(path):
        top, *parts = name.split(".")
        inner = parts[1:2]
        if top == "nnef_dists" and parts[0] in SUBPACKAGES and inner and inner[0].startswith("_"):
            found |= {name} if parts[0] != package_of(path) else set()
    return found


def mentions_of_pickle(source: str) -> list[str]:
    """Names and imports in code (not in prose) that would read or write pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append("allow_pickle")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
    return [name for name in found if re.search("pickle|dill|joblib", name, re.IGNORECASE)]


@functools.cache
def equinox_classes() -> dict[str, type]:
    """Every Equinox module class that the package defines, by its full name."""
    names = [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "nnef_dists.")]
    modules = [importlib.import_module(n) for n in names if not n.endswith("__main__")]
    return {
        f"{module.__name__}.{thing.__name__}": thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, eqx.Module)
        and thing.__module__ == module.__name__
    }


def test_subpackages_are_the_designed_ones():
    assert set(SUBPACKAGES) == {*ROOMS, "plotting"}


def test_arrows_run_one_way():
    for number, room in enumerate(ROOMS):
        assert MAY_IMPORT[room] <= set(ROOMS[:number]), room


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_imports_only_what_its_subpackage_may(path):
    forbidden = internal_packages(path) - MAY_IMPORT[package_of(path)]
    assert not forbidden, f"{relative_name(path)} imports nnef_dists.{forbidden}"


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_imports_no_private_module_of_another_room(path):
    assert not foreign_private_modules(path)


@pytest.mark.parametrize("name", sorted(COMMON))
def test_common_modules_import_no_room(name):
    assert not internal_packages(PACKAGE / f"{name}.py")


def test_heavy_libraries_are_imported_on_first_use():
    heavy = ["dask", "jsonargparse", "matplotlib", "numpyro", "pandas", "scipy.optimize", "zarr"]
    code = f"import sys, nnef_dists; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_import_check_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    folder = tmp_path / "families"
    folder.mkdir()
    forms = {
        "import nnef_dists.moments": {"moments"},
        "from nnef_dists import networks as n": {"networks"},
        "from nnef_dists.bayes._gaussian import GaussianParameter": {"bayes"},
        "from ..moments import Status": {"moments"},
        "from .. import bayes": {"bayes"},
        "from ._base import ExponentialFamily": set(),
        "def f():\n    import nnef_dists": {""},
        "import numpy": set(),
        "from nnef_dists._checks import guard": set(),
        "from nnef_dists._ranges import check_range": set(),
    }
    for number, (source, expected) in enumerate(forms.items()):
        path = folder / f"_form{number}.py"
        path.write_text(source)
        assert internal_packages(path) == expected, source


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_benchmarks_import_exists(path):
    """They run by hand, so that nothing else notices a name that has moved."""
    for name in imported_modules(path):
        if name.split(".")[0] == "nnef_dists" and "." in name:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_the_check_of_private_modules_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    folder = tmp_path / "moments"
    folder.mkdir()
    forms = {
        "from nnef_dists.sampling._hmc import run_chains": True,
        "from nnef_dists.sampling import _hmc": True,
        "import nnef_dists.sampling._hmc": True,
        "from ..sampling._hmc import run_chains": True,
        "from nnef_dists.sampling import Chains": False,
        "from nnef_dists.moments._label import label_chains": False,
        "from ._label import label_chains": False,
        "from nnef_dists._checks import guard": False,
    }
    for number, (source, expected) in enumerate(forms.items()):
        path = folder / f"_form{number}.py"
        path.write_text(source)
        assert bool(foreign_private_modules(path)) == expected, source


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_no_optax(path):
    assert not [name for name in imported_modules(path) if name.split(".")[0] == "optax"]


@pytest.mark.parametrize(
    "path", [path for path in FILES if package_of(path) == "families"], ids=relative_name
)
def test_families_build_on_flowjax_alone(path):
    tops = {name.split(".")[0] for name in imported_modules(path)}
    foreign = tops - set(sys.stdlib_module_names) - {"nnef_dists"} - FAMILIES_BUILD_ON
    assert not foreign


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_nothing_is_pickled(path):
    assert not mentions_of_pickle(path.read_text())


def test_the_pickle_check_sees_every_form():
    for source in ("import pickle", "from joblib import dump", "np.load(f, allow_pickle=True)"):
        assert mentions_of_pickle(source), source
    assert not mentions_of_pickle("np.load(f, allow_pickle=False)  # no pickle")


@pytest.mark.parametrize("name", equinox_classes())
def test_every_module_is_abstract_or_final(name):
    cls = equinox_classes()[name]
    abstract = cls.__abstractmethods__ | cls.__abstractvars__ | cls.__abstractclassvars__
    final = vars(cls).get("__final__", False)
    if cls in OPEN_BASES:
        assert not final
        assert not cls.__dataclass_fields__
        assert "__call__" not in vars(cls)
    else:
        assert bool(abstract) != final, f"{name}: abstract {set(abstract)}, final {final}"


@pytest.mark.parametrize("name", [n for n, cls in equinox_classes().items() if cls.__bases__])
def test_nothing_derives_from_a_final_class(name):
    bases = equinox_classes()[name].__mro__[1:]
    assert not [base for base in bases if vars(base).get("__final__", False)]


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_subpackages_declare_their_names(name):
    subpackage = importlib.import_module(f"nnef_dists.{name}")
    public = subpackage.__all__
    assert list(public) == sorted(set(public), key=public.index), "a name is listed twice"
    assert not [n for n in public if n.startswith("_")]
    for attribute in public:
        thing = getattr(subpackage, attribute)
        module = getattr(thing, "__module__", None)
        if isinstance(thing, type) or callable(thing):
            assert module.startswith("nnef_dists."), f"{attribute} is foreign: {module}"
        if isinstance(thing, type):
            assert module.startswith(f"nnef_dists.{name}."), f"{attribute} belongs to {module}"


def test_what_stands_flat_is_little_and_belongs_to_a_room():
    rooms = [importlib.import_module(f"nnef_dists.{name}") for name in ROOMS]
    for name in nd.__all__:
        homes = [room for room in rooms if name in room.__all__]
        assert len(homes) == 1, name
        assert getattr(nd, name) is getattr(homes[0], name)
    public = {name for name in vars(nd) if not name.startswith("_")}
    # Pytest's import hook adds jaxtyping, and plotting is there once something has imported it.
    assert public - {"plotting", "jaxtyping"} == {*nd.__all__, *ROOMS}
    assert len(nd.__all__) <= MOST_FLAT_NAMES


def test_public_names_do_not_collide():
    owner: dict[str, str] = dict.fromkeys([*SUBPACKAGES, "__main__", "__version__"], "nnef_dists")
    for name in SUBPACKAGES:
        for attribute in importlib.import_module(f"nnef_dists.{name}").__all__:
            assert attribute not in owner, f"{attribute}: {owner.get(attribute)} and {name}"
            owner[attribute] = name


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_modules_are_private_and_documented(path):
    assert path.name in ("__init__.py", "__main__.py") or path.name.startswith("_")
    assert ast.get_docstring(ast.parse(path.read_text()))
