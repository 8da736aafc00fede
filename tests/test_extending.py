"""A new family is one file, one export, one registry line: done here as docs/contributing.md says.

In a copy of the package and of its tests, so that the tests of the copy are those of the family.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnef_dists as nd
from tests.test_documentation import python_blocks

ROOT = Path(__file__).parents[1]
REGISTRY_LINE = (
    'FamilyCase("{name}", lambda: nd.families.{name}(), {{"x": (-4.0, -0.5)}},'
    ' lambda eta: scipy.stats.expon(scale=-1 / eta["x"])),\n'
)


def family_file() -> tuple[str, str]:
    """The source of a whole family file as the page has it, and the name of its class."""
    for block in python_blocks((ROOT / "docs" / "contributing.md").read_text()):
        for node in ast.parse(block.source).body:
            if isinstance(node, ast.ClassDef) and "AbstractNamedFamily" in map(
                ast.unparse, node.bases
            ):
                return block.source, node.name
    raise AssertionError("docs/contributing.md shows no family with a closed form")


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def run_tests(copy: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-n", "0", "-p", "no:cacheprovider", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with the page's file and its export, and the tests, without a registry line."""
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("nnef_dists", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    source, name = family_file()
    stem = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    families = root / "nnef_dists" / "families"
    (families / f"_{stem}.py").write_text(f'"""{name}."""\n\n{source}')
    exports = families / "__init__.py"
    statement = f"from nnef_dists.families._{stem} import {name}\n"
    replace_once(exports, "\n__all__ = [\n", f'{statement}\n__all__ = [\n    "{name}",\n')
    return root


def test_the_family_is_not_there_yet():
    assert not hasattr(nd, family_file()[1])


def test_file_and_export_without_a_registry_line_are_noticed(copy):
    result = run_tests(copy, "tests/test_registry.py", "-k", "test_every_public_final_class")
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(rf"add to tests/registry.py: .*'{family_file()[1]}'", result.stdout)


@pytest.mark.slow
def test_with_the_registry_line_all_identities_hold(copy):
    name = family_file()[1]
    line = REGISTRY_LINE.format(name=name)
    replace_once(copy / "tests" / "registry.py", "\nFAMILIES = (\n", f"\nFAMILIES = (\n    {line}")
    files = ["test_registry.py", "families/test_identities.py", "moments/test_quadrature.py"]
    files += ["moments/test_hmc.py", "moments/test_control_variates.py", "test_architecture.py"]
    selected = f"{name} or test_every_public_final_class or collide or abstract_or_final"
    result = run_tests(copy, *[f"tests/{file}" for file in files], "-k", selected)
    assert result.returncode == 0, result.stdout + result.stderr
    for check in (
        f"TestEveryFamily::test_dtype_is_carried[float32-{name}]",
        f"test_mean_is_the_gradient_of_the_log_partition[{name}]",
        f"test_covariance_is_the_hessian_of_the_log_partition[{name}]",
        f"test_log_density_is_that_of_scipy[{name}]",
        f"test_quadrature.py::test_closed_forms_of_all_registered_families[{name}]",
        f"test_hmc.py::test_closed_forms[{name}]",
        f"test_control_variates.py::test_labels_are_more_exact_and_as_honest[{name}]",
        "test_public_names_do_not_collide",
    ):
        assert re.search(re.escape(check) + r" PASSED", result.stdout), check
