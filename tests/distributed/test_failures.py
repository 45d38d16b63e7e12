"""Whatever happens to one process of a run: nothing is published, rank 0 says why in one line, and all end alike."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from support.children import environment, run_python
from support.many_runs import failed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.together import Together

GLOBAL = ["--amount", "0.5", "-q"]

AT = """
import os, signal, sys, time
import prunecli.distributed.gloo as gloo, prunecli.io.shared_output as output, prunecli.engine.shared_files
from prunecli.__main__ import main
rank, number, place, count = int(os.environ["RANK"]), {number}, "{place}", {count}

def before(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **options):
        global count
        count -= 1
        if rank == {rank} and count == 0:
            {action}
        return real(*arguments, **options)
    setattr(owner, name, call)

before({owner}, place)
main()
"""
"""Prune, and let something happen to one process before the COUNT-th call of a function."""


def at(rank: int, place: str, count: int = 1, action: str = "os.kill(os.getpid(), number)", number: int = 9) -> str:
    """Return the code."""
    owner = "output.SharedSink" if place in {"write", "flush"} else "gloo.GlooGroup"
    return AT.format(rank=rank, place=place, count=count, action=action, number=number, owner=owner)


@pytest.fixture
def shards(source: Callable[[str], Path]) -> Path:
    """Return a directory of shards."""
    return source("safetensors-shards")


SLOW = pytest.mark.slow
SELDOM = [("gather", 2), ("broadcast", 1), ("barrier", 1)]
KILLS = [
    ("add_up", 2, 1),
    ("write", 1, 0),
    *(pytest.param(*kill, rank, marks=SLOW) for kill in SELDOM for rank in (0, 1)),
]


@pytest.mark.parametrize(("place", "count", "rank"), KILLS)
def test_a_killed_process(forks: Together, shards: Path, tmp_path: Path, place: str, count: int, rank: int) -> None:
    """The others say which process is gone, and end; no output is there, and a draft only if rank 0 was killed."""
    ended = forks.run(2, ["global", shards, *GLOBAL, "-o", tmp_path / "out"], at(rank, place, count))

    lines, names = failed(ended, tmp_path)
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 2
    assert len(lines) == 2
    assert lines[0].startswith(f"error: rank {rank} on ")
    assert lines[0].endswith(": this process ended without a report: it was killed, or its machine is gone")
    assert not (tmp_path / "out").exists()
    assert rank == 0 or names == []


@pytest.mark.parametrize("rank", [pytest.param(0, marks=SLOW), 1])
def test_a_full_disk(forks: Together, shards: Path, tmp_path: Path, rank: int) -> None:
    """A process that cannot write stops the others; rank 0 says which one and why."""
    full = "raise OSError(28, 'No space left on device')"
    ended = forks.run(3, ["global", shards, *GLOBAL, "-o", tmp_path / "out"], at(rank, "write", 1, full))

    lines, names = failed(ended, tmp_path)
    assert ended.codes == [2, 2, 2]
    start = f"error: rank {rank} on " if rank else "error: not enough space for "
    assert lines[0].startswith(start)
    assert "not enough space for " in lines[0]
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert names == []


SLEEPING = """
import os, threading, time
import prunecli.distributed.gloo as gloo
from prunecli.__main__ import main

barrier = gloo.GlooGroup.barrier
def wait(group):
    if rank == {0}:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), {1})).start()
    else:
        time.sleep(50)
    barrier(group)
gloo.GlooGroup.barrier = wait
main()
"""
"""Prune; one process sleeps instead of working, and the other one gets a signal while it waits for it."""


@pytest.mark.parametrize(
    ("rank", "number"),
    [
        (1, signal.SIGINT),
        (0, signal.SIGTERM),
        pytest.param(0, signal.SIGINT, marks=SLOW),
        pytest.param(1, signal.SIGTERM, marks=SLOW),
    ],
)
def test_signals_are_heard_while_waiting(
    forks: Together, shards: Path, tmp_path: Path, rank: int, number: signal.Signals
) -> None:
    """A process that waits for one that sleeps hears a signal, and both end."""
    ended = forks.run(
        2, ["global", shards, *GLOBAL, "-o", tmp_path / "out"], SLEEPING.format(rank, int(number)), limit=40
    )

    lines, names = failed(ended, tmp_path)
    assert ended.codes == [128 + number] * 2
    assert names == []
    said = {(0, 2): ["interrupted: nothing was written"], (0, 15): [], (1, 2): ["error: rank 1 on HOST: interrupted"]}
    expected = said.get((rank, int(number)), ["error: rank 1 on HOST: stopped by a signal"])
    assert [re.sub(" on .*: ", " on HOST: ", line) for line in lines] == expected


def test_ctrl_c_at_a_terminal(forks: Together, shards: Path, tmp_path: Path) -> None:
    """A terminal interrupts all processes at once: one of them says that nothing was written."""
    code = SLEEPING.format(1, int(signal.SIGINT)).replace("time.sleep(50)", "own_interrupt()")
    code = "def own_interrupt():\n    time.sleep(0.3)\n    os.kill(os.getpid(), 2)\n    time.sleep(50)\n" + code
    ended = forks.run(2, ["global", shards, *GLOBAL, "-o", tmp_path / "out"], code, limit=40)

    lines, names = failed(ended, tmp_path)
    assert ended.codes == [130, 130]
    assert lines == ["interrupted: nothing was written"]
    assert names == []


def test_gates_and_strict_runs(forks: Together, source: Callable[[str], Path], tmp_path: Path) -> None:
    """A gate that fails is judged for all tensors together; all processes end with 1, and one says it."""
    words = ["global", source("zip"), "--amount", "0.5", "--min-sparsity", "0.6", "-q", "-o", tmp_path / "out.pth"]
    ended = forks.run(3, words)

    lines, names = failed(ended, tmp_path)
    assert ended.codes == [1, 1, 1]
    assert len(lines) == 2
    assert lines[-1] == "failed: the result does not meet the gates, so no checkpoint was written"
    assert names == []


@pytest.mark.parametrize(
    ("other", "phrase"),
    [(["global", "PATH", "--amount", "0.4", "-q"], "the options of rank 1 on ")],
)
def test_other_options(forks: Together, shards: Path, tmp_path: Path, other: list[str], phrase: str) -> None:
    """A process with other options is refused by its rank before anything is written."""
    words = ["global", str(shards), "--amount", "0.5", "-q", "-o", str(tmp_path / "out")]
    others = [str(shards) if word == "PATH" else word for word in other]
    ended = forks.run(3, [words, others, words])

    lines, names = failed(ended, tmp_path)
    assert ended.codes == [2, 2, 2]
    assert lines[0].startswith("error: all processes must do the same, and " + phrase)
    assert len(lines) == 2
    assert names == []


def test_another_version_and_another_file(forks: Together, source: Callable[[str], Path], tmp_path: Path) -> None:
    """A process of another version, and one that sees another file, are refused by name."""
    words = ["l1", source("zip"), "--amount", "0.5", "-q", "-o", tmp_path / "out.pth"]
    version = "import prunecli.cli.processes as processes\nprocesses.__version__ += 'x' * rank\n"
    state = "import prunecli.engine.agreed as agreed\nfiles = agreed.file_facts\nagreed.file_facts = lambda c: "
    state += "((name, text + 'x' * rank) for name, text in files(c))\n"
    run = "from prunecli.__main__ import main; main()"
    for code, phrase in ((version, "the version of rank 1 on "), (state, "the file ")):
        ended = forks.run(2, words, code + run)

        lines, names = failed(ended, tmp_path)
        assert ended.codes == [2, 2]
        assert lines[0].startswith("error: all processes must do the same, and " + phrase)
        assert names == []


def test_the_same_error_in_all_processes_is_one_line(forks: Together, tmp_path: Path) -> None:
    """An error that all processes have is that of rank 0, as if it were alone."""
    ended = forks.run(3, ["l1", tmp_path / "no.pth", "--amount", "0.5"])

    assert ended.codes == [2, 2, 2]
    assert ended.stderr[0].startswith("error: there is no file")
    assert ended.stderr[1:] == ["", ""]


def test_an_error_of_one_process_before_the_run(forks: Together, shards: Path, tmp_path: Path) -> None:
    """A process that cannot even open the checkpoint is named."""
    code = "import prunecli.api as api\nfrom prunecli.errors import CheckpointError\n"
    code += "def fail(*_, **__): raise CheckpointError('this disk is broken')\n"
    code += "if rank == 2: api.open_checkpoint = fail\nfrom prunecli.__main__ import main; main()"
    ended = forks.run(3, ["l1", shards, "--amount", "0.5", "-o", tmp_path / "out"], code)

    lines, names = failed(ended, tmp_path)
    assert ended.codes == [2, 2, 2]
    assert lines[0].startswith("error: rank 2 on ")
    assert lines[0].endswith(": this disk is broken")
    assert names == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["l1", "-", "--amount", "0.5", "-o", "x"], "error: 2 processes run this, and standard input needs one alone"),
        pytest.param(
            ["l1", "PATH", "--amount", "0.5", "-o", "-"],
            "error: 2 processes run this, and -o - needs one alone",
            marks=SLOW,
        ),
        pytest.param(
            ["l1", "PATH", "--amount", "0.5", "--in-place"],
            "error: 2 processes run this, and --in-place needs one alone",
            marks=SLOW,
        ),
        (["bake", "PATH"], "error: WORLD_SIZE says that 2 processes run this, and bake runs in one"),
        pytest.param(
            ["search", "PATH", "l1"],
            "error: WORLD_SIZE says that 2 processes run this, and search runs in one",
            marks=SLOW,
        ),
        (["l1", "--bogus"], "error: no such option: --bogus"),
    ],
)
def test_what_needs_one_process(forks: Together, shards: Path, words: list[str], message: str) -> None:
    """What several processes cannot do is said once."""
    ended = forks.run(2, [str(shards) if word == "PATH" else word for word in words])

    assert ended.codes == [2, 2]
    assert ended.stderr[0].splitlines()[0].startswith(message)
    assert ended.stderr[1] == ""


def test_help_is_printed_once(forks: Together) -> None:
    """Only rank 0 prints the help."""
    ended = forks.run(2, ["--version"])

    assert ended.codes == [0, 0]
    assert ended.stdout[0].startswith("prune ")
    assert ended.stdout[1] == ""


def test_processes_that_do_not_come(forks: Together, shards: Path) -> None:
    """Without the others, and at a wrong port, there is a sentence after the wait."""
    code = "import prunecli.distributed.gloo as gloo, datetime\ngloo.FOR_OTHERS = datetime.timedelta(seconds=2)\n"
    code += "gloo.connect.__defaults__ = (gloo.FOR_OTHERS, *gloo.connect.__defaults__[1:])\n"
    code += "from prunecli.__main__ import main; main()"
    ended = forks.run(2, ["l1", shards, "--amount", "0.5"], code, own={1: {"MASTER_PORT": "1"}})

    assert ended.codes == [2, 2]
    assert ended.stderr[0].startswith("error: WORLD_SIZE says that 2 processes run this, and not all of them came to ")
    assert ended.stderr[1].startswith("error: rank 1 on ")
    assert " does not find rank 0 at 127.0.0.1:1\n" in ended.stderr[1]
    assert [len(text.splitlines()) for text in ended.stderr] == [2, 2]


def test_one_process_imports_no_torch(source: Callable[[str], Path], tmp_path: Path) -> None:
    """With WORLD_SIZE=1 nothing of this is loaded."""
    code = "import sys\nfrom prunecli.cli.main import main\n"
    code += f"main(['l1', {str(source('zip'))!r}, '--amount', '0.5', '-q', '-o', {str(tmp_path / 'o.pth')!r}])\n"
    code += "print({'torch', 'prunecli.distributed.gloo', 'prunecli.ranking.shared_search'} & set(sys.modules))"
    ran = run_python("-c", code, env=environment(WORLD_SIZE="1", RANK="0"))

    assert ran.stdout == b"set()\n"


def test_without_torch(source: Callable[[str], Path]) -> None:
    """Several processes without torch say what to install."""
    code = "import sys\nsys.modules['torch'] = None\nimport importlib.util as util\nreal = util.find_spec\n"
    code += "util.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
    code += f"from prunecli.cli.main import main\nsys.exit(main(['l1', {str(source('zip'))!r}, '--amount', '0.5']))"
    ran = run_python("-c", code, env=environment(WORLD_SIZE="8", RANK="0", MASTER_ADDR="127.0.0.1"))

    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        b"error: WORLD_SIZE says that 8 processes run this, and that needs torch",
        b"hint: pip install 'prunecli[torch]', or for one process: unset WORLD_SIZE",
    ]
