"""The layers of the package: a module imports its own package and packages of lower layers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import pytest
from support import ROOT, make_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = ROOT / "prunecli"
FILES = sorted(SOURCE.rglob("*.py"))

LAYERS = (
    ("values",),
    ("errors", "dtypes", "layout", "version", "assembly", "file_view"),
    ("text", "checkpoint", "progress", "kernels"),
    ("remote",),
    ("io", "plans", "layouts", "distributed"),
    ("formats", "selection", "ranking"),
    ("strategies", "report"),
    ("engine", "inspection", "baking", "packing", "conversion"),
    ("api", "api_convert", "training"),
    ("tuning",),
    ("cli",),
    ("__main__",),
)
"""From the lowest to the highest; packages of one layer do not import each other."""

LAYER = {package: height for height, packages in enumerate(LAYERS) for package in packages}

NEVER = {
    "numpy": set(LAYER) - {"baking", "engine", "inspection", "io", "kernels", "ranking"},
    "torch": set(LAYER),
    "jinja2": set(LAYER),
    "rich": set(LAYER),
    "typer": set(LAYER) - {"cli"},
    "click": set(LAYER) - {"cli"},
    "pickle": set(LAYER),
}
"""Libraries and the packages whose modules do not import them at their top."""


def module_name(path: Path) -> str:
    """Return the dotted name of the module in a file."""
    return ".".join(["prunecli", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the modules that a file imports, and whether at its top; imports for type checkers are ignored."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(alias.name, node in tree.body) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.append((name if name in MODULES else node.module, node in tree.body))
    return names


def block_after(heading: str) -> list[str]:
    """Return the lines of the first block of text below a heading of docs/architecture.md."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return page.partition(f"## {heading}\n")[2].partition("```text\n")[2].partition("```")[0].splitlines()


def test_the_page_has_the_layers() -> None:
    """The table of the documentation is the one that is checked here."""
    rows = [line.split() for line in block_after("The import rule")]

    assert [(str(height), set(packages)) for height, packages in reversed(list(enumerate(LAYERS)))] == [
        (row[0], set(row[1:])) for row in rows
    ]


def test_the_page_has_every_package() -> None:
    """The tree of the documentation has each package and each module at the top, and no other."""
    words = {word for line in block_after("The packages")[1:] if line[2:3].strip() for word in re.split(r" {2,}", line)}

    assert {word for word in words if re.fullmatch(r"[a-z_]+(\.py|/)", word)} | {"__main__.py"} == {
        *(path.name for path in SOURCE.glob("*.py")),
        *(f"{path.name}/" for path in SOURCE.iterdir() if (path / "__init__.py").is_file()),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path: Path) -> None:
    """A module imports lower layers and its own package; light packages import no heavy library at their top."""
    relative = path.relative_to(SOURCE)
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return  # it imports the public names lazily
    wrong = []
    for name, at_top in imports(path):
        if name.startswith("prunecli"):
            other = f"{name}.__init__".split(".")[1]
            if other not in {own, "__init__"} and LAYER[other] >= LAYER[own]:
                wrong.append(f"{own} -> {name}")
        elif at_top and own in NEVER.get(name.split(".")[0], set()):
            wrong.append(f"{own} imports {name}")
    assert wrong == []


def test_no_modules_import_each_other() -> None:
    """The imports at the tops of the modules form no cycle."""
    graph = {name: {other for other, at_top in imports(path) if at_top} for name, path in MODULES.items()}

    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_only_baking_rewrites_files(path: Path) -> None:
    """Modules named `rewrite` are imported by baking, by the records of the formats and by each other."""
    relative = path.relative_to(SOURCE)
    if relative.parts[0] == "baking" or path.stem in {"format", "rewrite"}:
        return

    rewriters = [name for name, _ in imports(path) if name.split(".")[-1].endswith("rewrite")]

    assert rewriters == []


def test_every_package_has_a_layer() -> None:
    """LAYERS names exactly the packages that exist."""
    packages = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}

    assert packages == set(LAYER)


@pytest.mark.parametrize("line", ["--help", "global --help", "bake --help", "--version", "bogus", "global"])
def test_the_start_is_light(line: str) -> None:
    """Help, version and usage errors import neither numpy nor torch nor rich."""
    code = (
        "import sys\nfrom prunecli.cli.main import main\n"
        f"main({line.split()})\n"
        "print(sorted({'numpy', 'torch', 'rich', 'jinja2'} & set(sys.modules)), file=sys.stderr)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stderr.splitlines()[-1] == "[]"


UNUSED = {
    "cli.pipes",
    "cli.recipe_file",
    "cli.repair",
    "engine.compression",
    "engine.measured_planner",
    "engine.rank_planner",
    "engine.recipe_run",
    "engine.row_planner",
    "kernels.torch_ops",
    "ranking",
    "report.html",
    "report.markdown",
    "selection.hints",
    "strategies.mask",
    "strategies.semi_structured",
    "strategies.structured",
}
"""Modules for other strategies, for errors and for reports that a plain run does not write."""


def test_a_plain_run_imports_what_it_needs(tmp_path: Path) -> None:
    """A run with a threshold imports no module that only other runs need."""
    path = make_checkpoint("safetensors", tmp_path)
    code = (
        "import sys\nfrom prunecli.cli.main import main\n"
        f"assert main(['threshold', {str(path)!r}, '--thr', '0.1', '-q']) == 0\n"
        "print(*[name.removeprefix('prunecli.') for name in sys.modules])"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(run.stdout.split())
    assert {"cli.pruning", "engine.apply", "strategies.thresholds"} <= loaded
    assert UNUSED & loaded == set()
    assert "pydantic" not in loaded
    assert {name for name in UNUSED if f"prunecli.{name}" not in MODULES} == set()
