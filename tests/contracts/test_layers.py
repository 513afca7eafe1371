"""Imports run one way, and what must start fast imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "nlp_transfer"

LAYERS = [
    {"errors", "options", "console", "plain_json", "processes"},
    {"numeric"},
    {"models", "data"},
    {"tasks", "strategies", "adaptation"},
    {"arguments", "recipe_options", "recipe_yaml", "recipe_problems"},
    {"recipe"},
    {"recipe_keys"},
    {"training", "shift", "selection", "export", "export_checks", "predict", "reporting"},
    {"cli", "cli_models", "cli_recipes", "launch", "doctor", "demo"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """Top-level parts of nlp_transfer that a file imports; names for type checkers alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nlp_transfer."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nlp_transfer.")
            }
    return found


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            yield pytest.param(path, part, id=path.relative_to(PACKAGE).as_posix())


@pytest.mark.parametrize(("path", "part"), list(modules()))
def test_imports_run_one_way(path, part):
    assert part in LEVEL, f"{part} has no layer: give it one"
    upward = {name for name in imports(path) if name != part and LEVEL[name] > LEVEL[part]}
    assert not upward, f"{path.name} imports from a higher layer: {upward}"
    if part in ("tasks", "strategies", "adaptation"):
        assert not imports(path) & ({"tasks", "strategies", "adaptation"} - {part})


@pytest.mark.parametrize("module", ["nlp_transfer", "nlp_transfer.cli", "nlp_transfer.recipe"])
def test_light_modules_import_nothing_heavy(module):
    heavy = ["torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "pyarrow"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_files_stay_short():
    long = {
        path.relative_to(PACKAGE).as_posix(): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
