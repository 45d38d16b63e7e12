"""`prune search`: the amount that is found, the metric that is read, and what is left behind however it ends."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from prunecli.cli import main as cli
from prunecli.cli import search as cmd_search
from prunecli.cli import strategy_arguments as varied
from prunecli.errors import UsageError
from prunecli.strategies.unstructured import Global
from prunecli.tuning.evaluate import find_metric, parse_command
from prunecli.tuning.search import AmountGrid, MetricGoal, search
from prunecli.tuning.trials import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "checkpoints"
PYTHON = shlex.quote(sys.executable)
PREFIX = "import sys, numpy as np; from safetensors.numpy import load_file; w = load_file(sys.argv[1])['fc.weight']; "
DENSITY = f'{PYTHON} -c "{PREFIX} print(np.count_nonzero(w) / w.size)" {{}}'
"""Prints the fraction of weights that are left."""


def registered(name: str, function: Callable[..., int]) -> Iterator[None]:
    """Have `prune` know a command, unless it does already."""
    known = [command.name for command in cli.app.registered_commands]
    if name not in known:
        cli.app.command(name, context_settings=varied.SETTINGS)(function)
    yield
    if name not in known:
        cli.app.registered_commands.pop()


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    yield from registered("search", cmd_search.search)


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 1,000 different weights into a folder of their own."""
    folder = tmp_path / "work"
    folder.mkdir()
    weights = (np.random.default_rng(0).permutation(1000) + 1).astype(np.float32)
    save_file({"fc.weight": weights.reshape(20, 50), "fc.bias": weights[:20]}, folder / "c.safetensors")
    return folder / "c.safetensors"


def names(folder: Path) -> set[str]:
    """Return the names in `folder`."""
    return {path.name for path in folder.iterdir()}


def zeros(path: Path) -> int:
    """Return how many weights of the matrix are zero."""
    return int((load_file(path)["fc.weight"] == 0).sum())


def run(*args: str | Path) -> int:
    """Run `prune search` in this process."""
    return cli.main(["search", *map(str, args)])


# --- what is found


@pytest.mark.parametrize(("drop", "expected"), [("0.25", 250), ("0.5", 500), ("0", 0), ("0.987", 980), ("0.01", 10)])
def test_the_largest_amount_within_the_drop_is_written(
    ckpt: Path, capsys: pytest.CaptureFixture[str], drop: str, expected: int
) -> None:
    """With the density as metric, as many weights are zero as the drop allows, to the hundredth, equality included."""
    code = run(ckpt, "--eval", DENSITY, "--max-drop", drop, "global")

    output = ckpt.with_name("c.pruned.safetensors")
    assert (code, capsys.readouterr().err) == (
        (0, "") if expected else (1, "nothing found: every amount that was tried drops by more than 0\n")
    )
    assert output.exists() == bool(expected)
    if expected:
        assert zeros(output) == expected
        report = json.loads(ckpt.with_name("c.pruned.report.json").read_text())
        assert report["totals"]["selected"]["zeros_after"] == expected
    assert not [name for name in names(ckpt.parent) if name.startswith(".prune")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("l1", "--scope", "row"), 500),
        (("percentile",), 500),
        (("structured", "--n", "-inf", "--dim", "-1"), 500),
        (("--tolerance", "0.1", "block", "--shape", "2x5"), 500),
        (("random", "--seed", "3"), 500),
    ],
)
def test_every_strategy_with_an_amount_can_be_searched(ckpt: Path, options: tuple[str, ...], expected: int) -> None:
    """Each strategy parses its own options, wherever they stand, and gets the amount from the search."""
    assert run(ckpt, "--eval", DENSITY, "--max-drop", "0.5", *options, "-q") == 0
    assert zeros(ckpt.with_name("c.pruned.safetensors")) == expected


def test_a_loss_rises(ckpt: Path) -> None:
    """With --lower-is-better the metric may rise by the drop."""
    loss = DENSITY.replace("print(", "print(7 - ")

    assert run(ckpt, "--eval", loss, "--max-drop", "0.3", "--lower-is-better", "global", "-q") == 0
    assert zeros(ckpt.with_name("c.pruned.safetensors")) == 300


class Fake:
    """Trials of a model whose metric is a function of the amount."""

    def __init__(self, metric: Callable[[float], float]) -> None:
        """Count the trials, too."""
        self.metric, self.made = metric, list[float]()

    def unpruned(self, _: Global) -> Trial:
        """Return the trial of nothing pruned."""
        return Trial(None, 0, 100, Decimal(str(self.metric(0.0))), "", 0.0)

    def of(self, strategy: Global) -> Trial:
        """Return the trial of an amount."""
        amount = strategy.amount or 0.0
        self.made.append(amount)
        return Trial({}, round(100 * amount), 100, Decimal(str(self.metric(amount))), "", 0.0)


@given(st.floats(0, 0.999), st.sampled_from([0.5, 0.1, 0.03, 0.01, 0.001]))
def test_bisection_finds_the_edge(edge: float, tolerance: float) -> None:
    """For a metric that falls off a cliff, the largest multiple of the tolerance before it is found in log2 tries."""
    fake: Any = Fake(lambda amount: float(amount <= edge))
    steps = AmountGrid(tolerance)

    found = search(fake, lambda a: Global(amount=a), MetricGoal(Decimal("0.5")), steps, lambda _: lambda _: None)

    multiples = [round(i * tolerance, 12) for i in range(1, steps.count)]
    assert max((a for a in multiples if a <= edge), default=None) == (found.best and found.best.amount)
    assert min((a for a in multiples if a > edge), default=None) == (found.beyond and found.beyond.amount)
    assert found.complete
    assert 2 ** (len(found.tries) - 1) <= steps.count


@given(
    st.lists(st.sampled_from([0.0, 0.4, 1.0, float("nan"), float("inf")]), min_size=10, max_size=10), st.integers(1, 9)
)
def test_what_is_found_was_measured(metrics: list[float], most: int) -> None:
    """However the metric jumps, what is found was tried, stayed within the drop, and no more was tried than asked."""
    fake: Any = Fake(lambda amount: metrics[round(10 * amount)] if amount else 1.0)

    found = search(
        fake, lambda a: Global(amount=a), MetricGoal(Decimal("0.5")), AmountGrid(0.1, most), lambda _: lambda _: None
    )

    assert len(fake.made) <= most
    if found.best is not None:
        assert found.best.amount in fake.made
        assert metrics[round(10 * found.best.amount)] == 1.0


def test_an_evaluation_that_sees_nothing_is_doubted(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no amount changes the number, a warning shows where it was read."""
    assert (
        run(ckpt, "--eval", f"{PYTHON} -c 'print(\"epoch\", 3)' {{}}", "--max-drop", "0.1", "global", "-n", "-q") == 0
    )

    assert 'is 3 in "epoch 3" the metric?' in capsys.readouterr().err


# --- the metric


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy 0.98", "0.98"),
        ("0.1\n0.2\n", "0.2"),
        ("top1=.5, top5: +0.75.", "0.75"),
        ("98.4%", "0.984"),
        ("98.4 % right", "0.984"),
        ("loss 1e-3", "0.001"),
        ("(-7)", "-7"),
        ("0.98 (443/450) of model-3.v2 in /tmp/4/x5.pth at 12:30:05 on 2024-05-01", "0.98"),
        ("\x1b[32m0.98\x1b[0m", "0.98"),
        ("\r10 done\r0.98", "0.98"),
        ("nan", "NaN"),
        ("-inf", "-Infinity"),
        ("1e999999999", "Infinity"),
        ("1e-99999999999999999999", "0"),
        ("10,0.912", "0.912"),
        ("1,234.5", None),
        ("no number: v1.2.3 x86", None),
        ("", None),
    ],
)
def test_the_metric_is_the_last_number_by_itself(text: str, expected: str | None) -> None:
    """Words, paths, versions, dates and grouped digits hold no numbers; a percentage is its hundredth, exactly."""
    found = find_metric(text)

    assert expected == (None if found is None else str(found.value))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**6), max_value=10**6))
def test_what_python_prints_is_read_exactly(value: Decimal) -> None:
    """A decimal or a float that Python prints is found as what it is."""
    assert find_metric(f"1 2\nresult: {value}\n").value == value  # type: ignore[union-attr]
    assert float(find_metric(f"x {float(value)}").value) == float(value)  # type: ignore[union-attr]


@given(st.text())
def test_no_output_is_too_strange(text: str) -> None:
    """Any text has a metric or none, and the line it was read from is safe for a terminal."""
    found = find_metric(text)

    assert found is None or found.line.isprintable()


def test_a_pattern_names_another_number() -> None:
    """With a pattern, the metric is the number in its last match, or in the first group of that."""
    text = "acc 0.5 loss 2\nacc 0.6 loss 1\n"

    found = [find_metric(text, parse_command("x {}", p).pattern) for p in (r"acc (\S+)", r"acc \S+", r"^none")]

    assert [None if f is None else str(f.value) for f in found] == ["0.6", "0.6", None]


# --- what is remembered


def counting(folder: Path, then: str = "") -> str:
    """Return an evaluation that prints the density and adds a line to a log."""
    script = folder.parent / "count.py"
    script.write_text(
        f"{PREFIX}\nopen({str(folder.parent / 'log')!r}, 'a').write(sys.argv[1] + '\\n')\n{then}\n"
        "print(np.count_nonzero(w) / w.size)\n"
    )
    return f"{PYTHON} {shlex.quote(str(script))} {{}}"


def counted(folder: Path) -> int:
    """Return how often that was run, and forget it."""
    log = folder.parent / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return len(lines)


def test_a_second_search_evaluates_nothing_again(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was evaluated is remembered, for other drops too; --fresh, another command or checkpoint begin anew."""
    command = counting(ckpt.parent)
    args = (ckpt, "--eval", command, "--max-drop", "0.25", "global", "-n", "--json")

    run(*args)
    first, made = json.loads(capsys.readouterr().out), counted(ckpt.parent)
    run(*args)
    again = json.loads(capsys.readouterr().out)

    assert made == len(first["tries"]) + 1
    assert counted(ckpt.parent) == 0
    assert [t["metric"] for t in first["tries"]] == [t["metric"] for t in again["tries"]]
    assert all(t["remembered"] for t in again["tries"])
    run(*args, "--max-drop", "0.5")
    assert 0 < counted(ckpt.parent) < made
    run(*args, "--fresh")
    assert counted(ckpt.parent) == made
    run(*args, "l1")
    os.utime(ckpt, ns=(1, 1))
    counted(ckpt.parent)
    run(*args)
    assert counted(ckpt.parent) == made


def test_an_interrupted_search_goes_on(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a failure the next run makes only the trials that are missing."""
    broken = ckpt.parent.parent / "broken"
    broken.touch()
    command = counting(
        ckpt.parent, f"import os\nif os.path.exists({str(broken)!r}) and (w == 0).mean() == .75: sys.exit(3)"
    )
    args = (ckpt, "--eval", command, "--max-drop", "0.9", "global", "-q")

    assert run(*args) == 2
    assert counted(ckpt.parent) == 3
    assert names(ckpt.parent) == {"c.safetensors", "c.pruned.search.json"}
    broken.unlink()
    assert run(*args) == 0
    made = counted(ckpt.parent)
    assert run(*args, "--fresh", "--force") == 0
    assert counted(ckpt.parent) == made + 2  # the unpruned one, and the half
    assert "exit code 3" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[" * 9999, '{"schema": 1, "what": 3}', "\udcff", '{"runs": 3}', "null"])
@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
def test_what_is_no_state_file_is_never_replaced(
    ckpt: Path, capsys: pytest.CaptureFixture[str], text: str, fresh: tuple[str, ...]
) -> None:
    """A file that holds anything else is refused before anything is evaluated, also by --fresh."""
    state = ckpt.with_name("state.json")
    state.write_text(text, errors="surrogateescape")
    before = state.read_bytes()

    assert run(ckpt, "--eval", counting(ckpt.parent), "--max-drop", "0.5", "--state", state, "global", *fresh) == 2
    assert before == state.read_bytes()
    assert counted(ckpt.parent) == 0
    assert "does not hold trials" in capsys.readouterr().err


def test_the_checkpoint_is_no_state_file(ckpt: Path) -> None:
    """--state never takes the checkpoint itself."""
    before = ckpt.read_bytes()

    assert run(ckpt, "--eval", DENSITY, "--max-drop", "0.5", "--state", ckpt, "global") == 2
    assert before == ckpt.read_bytes()


# --- what goes wrong


def failing(script: str) -> str:
    """Return an evaluation of a line of Python."""
    return f"{PYTHON} -c {shlex.quote(script)} {{}}"


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        (failing("print('\\x1b[2Jhi'); import sys; sys.exit('it broke')"), ["  | it broke", "exit code 1"]),
        (failing("import os; os.kill(os.getpid(), 9)"), ["was killed by SIGKILL"]),
        (failing("print('fine')"), ["  | fine", "printed no number on its standard output", " CKPT\n"]),
        (failing("print(float('nan'))"), ["the unpruned checkpoint's metric is NaN"]),
        ("./absent-command {}", ["there is no command './absent-command'"]),
        ("/ {}", ["cannot run '/'"]),
        ("python eval.py", ["has no {}", "hint: --eval 'python eval.py {}'"]),
        ("python eval.py {} | tail", ["without a shell", "hint: --eval \"sh -c 'python eval.py \\$0 | tail' {}\""]),
        ("A=1 python eval.py {}", ["without a shell", "hint: --eval 'env A=1 python eval.py {}'"]),
        ("python 'eval.py {}", ["cannot be split into words: no closing quotation"]),
        ("", ["--eval is empty"]),
    ],
)
def test_a_command_that_fails_is_told(
    ckpt: Path, capsys: pytest.CaptureFixture[str], command: str, messages: list[str]
) -> None:
    """The error says what happened after the last lines of the output, and nothing is left behind."""
    assert run(ckpt, "--eval", command, "--max-drop", "0.5", "global") == 2

    err = capsys.readouterr().err
    assert all(message in err for message in messages), err
    assert "\x1b" not in err
    assert names(ckpt.parent) <= {"c.safetensors", "c.pruned.search.json"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("CKPT --max-drop 1 global", "--eval is missing"),
        ("CKPT --eval EVAL global", "--max-drop is missing"),
        ("CKPT --eval EVAL --max-drop 1% global", "metric's own units, not '1%'"),
        ("CKPT --eval EVAL --max-drop -1 global", "--max-drop is a number of 0 or more"),
        ("CKPT --eval EVAL --max-drop nan global", "--max-drop is a number of 0 or more"),
        ("CKPT --eval EVAL --max-drop 1 gobal", "there is no strategy 'gobal'"),
        ("CKPT --eval EVAL --max-drop 1 topk --pattern 2:4", "such option: --pattern"),
        ("CKPT --eval EVAL --max-drop 1 topk", "topk has no amount that could be varied"),
        ("CKPT --eval EVAL --max-drop 1 global --amount 0.5", "--amount is what is varied here"),
        ("CKPT --eval EVAL --max-drop 1 percentile --q 5", "--q is what is varied here"),
        ("CKPT --eval EVAL --max-dorp 1 global", "such option: --max-dorp"),
        ("CKPT --eval EVAL --max-drop 1 global --scope row", "such option: --scope"),
        ("CKPT --eval EVAL --max-drop 1 l1 --scope column", "--scope is tensor or row"),
        ("CKPT --eval EVAL --max-drop 1 block", "block needs --shape"),
        ("CKPT --eval EVAL --max-drop 1 --tolerance 0 global", "--tolerance is more than 0"),
        ("CKPT --eval EVAL --max-drop 1 --tolerance nan global", "--tolerance is more than 0"),
        ("CKPT --eval EVAL --max-drop 1 --tries 0 global", "--tries is 1 or more"),
        ("CKPT --eval EVAL --max-drop 1 --metric ( global", "no regular expression"),
        ("CKPT --eval EVAL --max-drop 1 global -o -", "the checkpoint needs a file"),
        ("CKPT --eval EVAL --max-drop 1 global -o CKPT", "is the input itself"),
        ("CKPT --eval EVAL --max-drop 1 global --report x.pdf", "pdf"),
        ("CKPT --eval EVAL --max-drop 1 global -o no/such/folder", "there is no directory"),
        ("CKPT --eval EVAL --max-drop 1 global -i nomatch", "matches none"),
        ("absent.pth --eval EVAL --max-drop 1 global", "there is no file or directory"),
        ("- --eval EVAL --max-drop 1 global", "a pipe gives its checkpoint once"),
        ("CKPT --eval EVAL --max-drop 1", "issing argument 'STRATEGY'"),
        ("", "issing argument 'CKPT'"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_evaluated(
    ckpt: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    """Each mistake is one error line and a hint, exit code 2, and the command has not been run."""
    command = counting(ckpt.parent)

    words = [str(ckpt) if word == "CKPT" else command if word == "EVAL" else word for word in args.split()]
    code = run(*words)

    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert counted(ckpt.parent) == 0
    assert names(ckpt.parent) == {"c.safetensors"}


def test_help_shows_the_options_of_the_strategy_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the strategies, and with one of them its options; what is varied is not offered."""
    assert run("--help") == 0
    assert "STRATEGY is one of percentile, l1, global" in capsys.readouterr().out
    assert run("x.pth", "block", "--help") == 0
    text = capsys.readouterr().out
    assert "--shape RxC" in text
    assert "--amount" not in text
    assert text.startswith("Usage: prune search [OPTIONS] ")


def running(pid: int) -> bool:
    """Say whether a process runs; one that ended and that nobody asked about does not."""
    ran = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False, text=True)
    return bool(ran.stdout.strip()) and not ran.stdout.startswith("Z")


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps here")
def test_ctrl_c_ends_the_command_and_leaves_nothing(ckpt: Path) -> None:
    """An interrupt ends the evaluation with all that it started, removes the candidate, and exits with 130."""
    mark = ckpt.parent.parent / "pid"
    inner = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    script = "import sys\nfrom prunecli.cli.main import main\nsys.exit(main(['search', *sys.argv[1:]]))"
    args = [sys.executable, "-c", script, str(ckpt), "--eval", failing(child), "--max-drop", "1", "global"]

    with subprocess.Popen(args, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)

    assert process.returncode == 130
    assert names(ckpt.parent) == {"c.safetensors"}
    deadline = time.monotonic() + 5
    while running(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(int(mark.read_text()))


def test_a_flood_of_output_is_no_matter(ckpt: Path) -> None:
    """Of an evaluation that prints without end on both outputs, the last number is read."""
    flood = (
        "import sys\nfor i in range(40): sys.stderr.write('e' * 99999); sys.stdout.write('1 ' * 99999)\nprint('', 0.5)"
    )

    assert run(ckpt, "--eval", failing(flood), "--max-drop", "0.1", "global", "-n", "-q", "--tries", "1") == 0


def test_a_directory_of_shards_is_searched(ckpt: Path) -> None:
    """The command is handed a directory, whole, and the winner is one."""
    shards = ckpt.parent / "model"
    shards.mkdir()
    shutil.move(ckpt, shards / "model.safetensors")
    (shards / "config.json").write_text("{}")
    command = DENSITY.replace("sys.argv[1]", "sys.argv[1] + '/model.safetensors'")

    assert run(shards, "--eval", command, "--max-drop", "0.25", "global", "-q") == 0
    assert zeros(shards.with_name("model.pruned") / "model.safetensors") == 250
    assert names(shards.with_name("model.pruned")) == {"config.json", "model.safetensors"}


def test_a_checkpoint_that_changes_meanwhile_is_an_error(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of two checkpoints are never put into one table."""
    command = counting(ckpt.parent, f"import os; os.utime({str(ckpt)!r}, ns=(1, 1))")

    assert run(ckpt, "--eval", command, "--max-drop", "0.25", "global") == 2
    assert "changed while" in capsys.readouterr().err


def test_a_command_needs_the_placeholder() -> None:
    """The placeholder may be inside a word, and takes any path."""
    assert parse_command("x --ckpt={} '{}'").on(Path("/a b")) == ["x", "--ckpt=/a b", "/a b"]
    with pytest.raises(UsageError):
        parse_command("x")


# --- real models


def test_the_demo_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the committed training checkpoint, a real accuracy within a hundredth leaves most weights zero."""
    ckpt = tmp_path / "digits.safetensors"
    shutil.copy(ROOT / "demo" / "digits_conv.safetensors", ckpt)
    command = f"{PYTHON} {shlex.quote(str(ROOT / 'scripts' / 'accuracy.py'))} {{}}"

    code = run(ckpt, "--eval", command, "--max-drop", "0.01", "--tolerance", "0.05", "global", "--json")

    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["unpruned"]["metric"] == 0.9844
    assert found["best"]["metric"] >= 0.9744 > found["beyond"]["metric"]
    assert found["best"]["amount"] >= 0.8


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real checkpoints are not here")
def test_mnist_is_scored_as_torch_does() -> None:
    """The example script gives the accuracy that the same network has in torch, on the first images."""
    import torch
    from torch import nn

    script = str(ROOT / "scripts" / "mnist_accuracy.py")
    ckpt = SHARED / "burn-mnist.safetensors"
    ran = subprocess.run(
        [sys.executable, script, ckpt, "--data", SHARED, "--limit", "300"], capture_output=True, check=True
    )
    w = {name: torch.from_numpy(t) for name, t in load_file(ckpt).items()}
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import mnist_accuracy
    finally:
        sys.path.pop(0)
    x = torch.from_numpy(mnist_accuracy.load_images(SHARED / "t10k-images-idx3-ubyte.gz")[:300].copy())
    for layer in ("conv1", "conv2", "conv3"):
        x = nn.functional.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"]).relu()
    x = nn.functional.batch_norm(x, w["norm1.running_mean"], w["norm1.running_var"], w["norm1.weight"], w["norm1.bias"])
    x = nn.functional.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]).relu()
    x = nn.functional.linear(x, w["fc2.weight"], w["fc2.bias"])
    x = nn.functional.batch_norm(x, w["norm2.running_mean"], w["norm2.running_var"], w["norm2.weight"], w["norm2.bias"])
    labels = mnist_accuracy.load_labels(SHARED / "t10k-labels-idx1-ubyte.gz")[:300]

    right = int((x.argmax(1).numpy() == labels).sum())
    assert ran.stdout.decode() == f"{right} of 300 right, accuracy {right / 300:.4f}\n"
