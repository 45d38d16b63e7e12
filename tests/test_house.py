"""The house: which room may import which, what stays light, and that every room and public name says what it is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from prunecli import cli
from prunecli.overview import LOOKING, PRUNING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUSE = Path(__file__).parents[1] / "prunecli"
ROOMS = {path.stem: path for path in sorted(HOUSE.glob("*.py"))}
HEAVY = {"numpy", "torch", "safetensors"}
LINES_LIMIT = 400

ARROWS = {
    # values
    "__init__": "",  # what it offers is imported when it is asked for
    "errors": "",
    "escape": "",
    "dtypes": "",
    "crc32": "",
    "tensors": "dtypes",
    # formats: where the bytes are
    "pickle_opcodes": "",
    "pickle_reader": "errors escape pickle_opcodes",
    "zip_directory": "errors escape tensors",
    "torch_tensors": "dtypes errors escape pickle_reader tensors",
    "torch_walk": "errors escape pickle_opcodes pickle_reader tensors torch_tensors",
    "torch_legacy": "errors escape pickle_opcodes pickle_reader tensors torch_tensors",
    "torch_records": "errors escape tensors",
    "torchscript": "pickle_reader",
    "exported": "errors escape safetensors_file tensors torch_records torch_tensors",
    "torch_file": "errors escape exported pickle_reader tensors torch_legacy torch_records torch_tensors torch_walk"
    " torchscript zip_directory",
    "array_pickle": "dtypes errors escape pickle_opcodes pickle_reader tensors torch_tensors torch_walk",
    "safetensors_file": "dtypes errors escape tensors",
    "shards": "errors escape safetensors_file",
    "checkpoint": "array_pickle errors escape safetensors_file shards tensors torch_file",
    # words: which tensors, which weights
    "sharing": "dtypes errors escape tensors",
    "selection": "dtypes errors escape sharing tensors",
    "plans": "dtypes errors",
    "rules": "dtypes errors escape plans",
    "structures": "errors plans rules",
    "strategies": "allocation dtypes errors escape plans rules structures",
    "basis": "checkpoint dtypes errors escape",
    "work": "basis",
    "asking": "basis errors escape rules selection strategies work",
    # numbers
    "arrays": "dtypes errors",
    "tiles": "arrays",
    "patterns": "arrays dtypes",
    "ranking": "arrays dtypes errors patterns plans",
    "bins": "dtypes",
    "measure": "arrays bins dtypes patterns",
    "curves": "dtypes errors normalized plans squares",
    "normalized": "patterns squares",
    "squares": "",
    "allocation": "errors escape rules",
    "norms": "arrays dtypes patterns",
    "workers": "arrays errors measure",
    "devices": "errors",
    # bytes
    "splice": "errors escape tensors",
    "targets": "errors escape",
    "hidden": "targets",
    "output": "errors escape hidden targets",
    # the two phases
    "reading": "errors splice tiles workers",
    "scores": "arrays dtypes errors escape patterns strategies workers",
    "measuring": "dtypes norms patterns scores strategies",
    "histograms": "arrays patterns",
    "quantiles": "arrays dtypes histograms ranking reading",
    "leftovers": "",
    "pickle_terms": "errors pickle_opcodes pickle_reader",
    "pickle_rewrite": "errors escape pickle_terms torch_records",
    "file_parts": "splice tensors",
    "zip_rewrite": "errors file_parts tensors zip_directory",
    "torch_rewrite": "errors exported file_parts pickle_opcodes pickle_reader pickle_rewrite tensors torch_legacy"
    " torch_records torch_tensors torchscript zip_directory zip_rewrite",
    "safetensors_rewrite": "dtypes errors file_parts safetensors_file",
    "pruned_pairs": "dtypes errors escape leftovers sharing tensors",
    "passes": "",
    "folding": "arrays dtypes errors escape pruned_pairs reading splice tiles workers",
    "bake": "checkpoint errors escape file_parts folding output passes pruned_pairs reading safetensors_file"
    " safetensors_rewrite shards splice targets tensors torch_file torch_rewrite",
    "inspecting": "beside dtypes errors escape histograms leftovers passes quantiles reading selection sharing tensors",
    "scanning": "dtypes histograms passes quantiles reading selection",
    "memory": "errors escape tensors torch_tensors",
    "masks": "splice",
    "planning": "arrays curves dtypes measuring plans ranking reading scores splice strategies workers",
    "applying": "arrays crc32 dtypes errors escape measure plans splice tiles workers",
    "worth": "errors",
    "running": "applying errors escape planning plans reading report scores splice workers worth",
    "engine": "masks output reading running splice work",
    # what was done, as values and as text
    "report": "dtypes escape tensors",
    "render": "escape report",
    "gates": "errors escape",
    "columns": "tabular",
    "counting": "arrays dtypes",
    "comparing": "arrays dtypes errors escape patterns reading sharing workers",
    "beside": "errors pickle_opcodes pickle_reader safetensors_file tensors torch_legacy torch_records torch_tensors"
    " zip_directory",
    "pairing": "checkpoint selection",
    "evaluating": "errors escape",
    "trials": "errors escape evaluating hidden output",
    "searching": "errors evaluating",
    "sweeping": "errors escape",
    "plot_svg": "escape",
    "check": "checkpoint comparing counting dtypes errors escape gates pairing passes reading rules selection tensors",
    "diff": "beside checkpoint comparing dtypes errors pairing passes tensors",
    "figures": "bins",
    "name_ranges": "",
    "report_csv": "escape report",
    # faces
    "report_markdown": "escape render",
    "report_html": "escape figures render report",
    "report_files": "errors report report_csv report_html report_markdown",
    "api": "asking checkpoint devices engine errors escape gates output recipes report report_files running"
    " selection strategies targets",
    "spool": "errors escape",
    "progress": "",
    "telling": "errors passes progress targets",
    "options": "checkpoint errors escape gates",
    "commands": "errors options strategies",
    "recipes": "asking basis errors rules selection spool strategies work",
    "recipe_files": "commands errors escape recipes selection",
    "cmd_run": "recipe_files",
    "check_text": "columns escape",
    "diff_text": "columns escape pairing",
    "inputs": "spool",
    "cmd_check": "check check_text errors gates inputs options telling",
    "cmd_diff": "diff diff_text errors inputs options telling",
    "varied": "commands errors escape",
    "evaluated": "api checkpoint errors escape evaluating selection telling trials",
    "cmd_search": "api checkpoint errors escape evaluated options render report_files searching sweeping targets"
    " varied",
    "cmd_sweep": "checkpoint escape evaluated options output plot_svg render sweeping telling varied",
    "cmd_bake": "bake errors escape inputs options render spool tabular telling",
    "tabular": "",
    "threshold_text": "escape render tabular",
    "inspect_text": "dtypes escape inspecting leftovers name_ranges render tabular threshold_text",
    "inspect_json": "dtypes inspecting",
    "scan_text": "escape render scanning tabular",
    "scan_html": "escape render scanning",
    "cmd_inspect": "checkpoint errors inputs inspect_json inspect_text inspecting options selection tabular telling",
    "cmd_scan": "checkpoint errors inputs options output scan_html scan_text scanning selection tabular telling",
    "live": "asking devices errors masks memory recipes running selection",
    "finetune": "basis checkpoint dtypes errors escape memory reading scores selection workers",
    "overview": "",
    "cli": "api checkpoint errors escape gates options overview progress render report spool strategies targets",
    "__main__": "cli",
}
"""Room -> the rooms it may import when it runs; for annotations alone it may name any but the faces."""

FACES = {
    *("api", "cli", "commands", "options", "overview", "progress", "recipe_files", "__main__"),
    *("cmd_bake", "cmd_check", "cmd_diff", "cmd_inspect", "cmd_run", "cmd_scan", "cmd_search", "cmd_sweep"),
    *("check_text", "columns", "diff_text"),
    *(
        "check_text",
        "columns",
        "diff_text",
        "inputs",
        "inspect_json",
        "inspect_text",
        "render",
        "report_files",
        "report_html",
        "report_markdown",
    ),
    *("evaluated", "finetune", "live", "varied", "scan_html", "scan_text", "tabular", "telling", "threshold_text"),
}
TYPER = {"cli", "commands", "evaluated", "options", "varied"} | {room for room in FACES if room.startswith("cmd_")}
NUMBERS = {
    *(
        "arrays",
        "curves",
        "histograms",
        "measure",
        "measuring",
        "normalized",
        "norms",
        "patterns",
        "ranking",
        "squares",
        "tiles",
    ),
    *("comparing", "counting", "folding", "inspecting", "memory", "planning", "quantiles", "scanning", "scores"),
}
"""The rooms that compute: nobody else imports NumPy."""


@cache
def tree(room: str) -> ast.Module:
    """Return the syntax of a room."""
    return ast.parse(ROOMS[room].read_text(encoding="utf-8"))


def typing_only(room: str) -> set[int]:
    """Return the identities of the nodes that only type checkers see."""
    guards = (n for n in ast.walk(tree(room)) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {id(inner) for guard in guards for inner in ast.walk(guard)}


def imports(room: str, *, runtime: bool) -> Iterator[str]:
    """Yield the dotted names a room imports, anywhere in it: when it runs, or for type checkers alone."""
    hidden = typing_only(room)
    for node in ast.walk(tree(room)):
        if (id(node) in hidden) == runtime:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{room} uses a relative import"
            whole = node.module == "prunecli"
            yield from (f"prunecli.{alias.name}" if whole else str(node.module) for alias in node.names)


def rooms_of(names: Iterator[str]) -> set[str]:
    """Return the rooms among dotted names."""
    found = {name.removeprefix("prunecli.") for name in names if name.startswith("prunecli.")}
    return found - {"__version__"}


def test_the_plan_shows_every_room() -> None:
    """A new room has to be drawn into the plan, and one that is gone to be taken out."""
    assert ROOMS.keys() == ARROWS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room: str) -> None:
    """A room imports only what the plan allows."""
    assert rooms_of(imports(room, runtime=True)) <= set(ARROWS[room].split())


def test_the_plan_has_no_circle() -> None:
    """Rooms can be put into an order in which each imports only earlier ones."""
    left = {room: set(arrows.split()) for room, arrows in ARROWS.items()}
    while left:
        free = {room for room, needs in left.items() if not needs & left.keys()}
        assert free, f"these import each other: {sorted(left)}"
        left = {room: needs for room, needs in left.items() if room not in free}


@pytest.mark.parametrize("room", sorted(ROOMS.keys() - FACES - {"__init__"}))
def test_the_inner_rooms_do_not_know_the_faces(room: str) -> None:
    """Nothing below the command line and the one-call function names them, not even for its types."""
    assert not FACES & (rooms_of(imports(room, runtime=True)) | rooms_of(imports(room, runtime=False)))


@pytest.mark.parametrize("room", ROOMS)
def test_only_the_rooms_of_numbers_compute(room: str) -> None:
    """NumPy is imported by the rooms that compute, and nothing of torch or safetensors by a statement anywhere."""
    used = {name.split(".")[0] for name in imports(room, runtime=True)} & HEAVY

    assert used <= ({"numpy"} if room in NUMBERS else set())


@pytest.mark.parametrize("room", sorted(ROOMS.keys() - TYPER))
def test_only_the_command_line_knows_typer(room: str) -> None:
    """What reads the command line is known where it is read."""
    assert "typer" not in {name.split(".")[0] for name in imports(room, runtime=True)}


@pytest.mark.parametrize(
    "room",
    [
        *("pickle_opcodes", "pickle_reader", "torch_walk", "torch_file", "torch_legacy", "torch_tensors"),
        *("torch_records", "torchscript", "exported", "array_pickle", "beside"),
        *("pickle_terms", "pickle_rewrite", "torch_rewrite", "zip_rewrite"),
    ],
)
def test_the_readers_of_pickles_cannot_unpickle(room: str) -> None:
    """The rooms that read pickles import nothing that runs them."""
    assert not {"pickle", "_pickle", "marshal", "importlib", "torch"} & set(imports(room, runtime=True))


# --- light


def modules_after(*args: str) -> tuple[int, set[str]]:
    """Run the command line in a process of its own; return its exit code and the modules it had imported."""
    script = (
        "import json, sys\nfrom prunecli.cli import main\ncode = main(sys.argv[1:])\n"
        "print('\\n' + json.dumps([code, sorted(sys.modules)]))"
    )
    ran = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, check=True, text=True)
    code, names = json.loads(ran.stdout.splitlines()[-1])
    return code, {name.split(".")[0] for name in names}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one small matrix."""
    path = tmp_path_factory.mktemp("house") / "c.safetensors"
    save_file({"fc.weight": np.arange(64, dtype=np.float32).reshape(8, 8)}, path)
    return path


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("", 2),
        ("global --help", 0),
        ("topk CKPT --pattern 5:4", 2),
        ("global CKPT --amount 1", 2),
        ("global CKPT --amount 0.5 -i nomatch", 2),
        ("global missing.pth --amount 0.5", 2),
        ("global CKPT --amount 0.5 -o no/such/file", 2),
    ],
)
def test_help_and_errors_import_nothing_heavy(ckpt: Path, args: str, code: int) -> None:
    """Help, usage errors and selections that match nothing answer without NumPy, torch, safetensors and Rich."""
    ended, modules = modules_after(*args.replace("CKPT", str(ckpt)).split())

    assert code == ended
    assert not (HEAVY | {"rich"}) & modules


def test_the_list_of_commands_imports_none_of_them() -> None:
    """`prune --help` takes one line about each command from a list, and not from the commands."""
    script = "import sys\nfrom prunecli.cli import main\nmain(['--help'])\nprint('\\n', *sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)

    rooms = {name.partition(".")[2] for name in ran.stdout.splitlines()[-1].split() if name.startswith("prunecli.")}
    assert rooms == {"cli", "errors", "escape", "gates", "options", "overview"}


@pytest.mark.parametrize("name", [*PRUNING, *LOOKING])
def test_the_list_of_commands_says_what_they_say(name: str) -> None:
    """The line about a command is the first of what it says of itself."""
    cli.register([name])
    (command,) = (command for command in cli.app.registered_commands if command.name == name)

    assert {**PRUNING, **LOOKING}[name] == (command.callback.__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("args", ["global CKPT --amount 0.5 -n", "topk CKPT --pattern 2:4 -n --json"])
def test_pruning_on_the_cpu_needs_no_torch(ckpt: Path, args: str) -> None:
    """A run on the CPU imports NumPy, and neither torch nor, where nobody looks, Rich."""
    ended, modules = modules_after(*args.replace("CKPT", str(ckpt)).split())

    assert ended == 0
    assert {"numpy"} == modules & (HEAVY | {"rich"})


def test_importing_the_package_is_light() -> None:
    """`import prunecli` brings in neither NumPy nor torch nor the command line's libraries."""
    script = "import sys, prunecli; print(*sys.modules)"

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)

    assert not (HEAVY | {"rich", "typer"}) & set(ran.stdout.split())


# --- tidy


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_grows_too_long(room: str) -> None:
    """A room splits at 400 lines."""
    assert len(ROOMS[room].read_text(encoding="utf-8").splitlines()) <= LINES_LIMIT


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is(room: str) -> None:
    """Every room opens with a docstring."""
    assert ast.get_docstring(tree(room))


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield the name and the syntax of the public functions and classes in a node, methods included."""
    for inner in node.body:
        if not isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or inner.name.startswith("_"):
            continue
        yield prefix + inner.name, inner
        if isinstance(inner, ast.ClassDef):
            yield from public(inner, f"{inner.name}.")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room: str) -> None:
    """Every public function, class and method has a docstring."""
    silent = [
        name
        for name, node in public(tree(room))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not ast.get_docstring(node)
    ]

    assert silent == []


@pytest.mark.parametrize("room", ROOMS)
def test_annotations_cost_nothing(room: str) -> None:
    """Every room but the one-line ones postpones its annotations."""
    if room != "__init__":
        assert "from __future__ import annotations" in ROOMS[room].read_text(encoding="utf-8")
