"""Runs of the command line in forks of one child process, with signals at chosen moments and with limits.

A fork starts in milliseconds; a new Python with NumPy takes half a second of CPU time.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.children import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
"""The signals that stop a run, and the exit code after each."""

NOBODY = 65534

INJECT = """
import fcntl, importlib, json, os, pkgutil, resource, signal, sys, time
import prunecli
from prunecli.io import files

for module in pkgutil.walk_packages(prunecli.__path__, "prunecli."):
    if not module.name.startswith("prunecli.kernels.triton_"):  # it imports triton, which few machines have
        importlib.import_module(module.name)
from prunecli import __main__
from prunecli.cli.main import main

def inject(where, count, number):
    owner, name = (files.Sink, "write") if where == "write" else (os, where)
    real = getattr(owner, name)

    def call(*args, **kwargs):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        return real(*args, **kwargs)

    setattr(owner, name, call)
"""
"""Import every module, and define a function that sends a signal before the COUNT-th call of another function."""

PROCESS = f"""{INJECT}
sys.argv[1:], (where, count, number) = sys.argv[4:], sys.argv[1:4]
inject(where, int(count), int(number))
__main__.main()
"""

FORKS = f"""{INJECT}
def start(request):
    for descriptor, path in ((1, request["log"] + ".out"), (2, request["log"] + ".err")):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["ignored"]:
        signal.signal(request["ignored"], signal.SIG_IGN)
    if request["user"] and os.geteuid() == 0:
        main([*request["args"], "--dry-run"])  # imports modules of Python that the user may not be able to read
        for descriptor in (1, 2):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    if request["before"]:
        inject(*request["before"], request["number"])
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    sys.argv[1:] = request["args"]
    __main__.main()

for line in sys.stdin:
    request = json.loads(line)
    began = time.monotonic()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            start(request)
        except SystemExit as end:
            code = end.code
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)  # without the clean-up of Python, during which most signals would come
    if request["number"] and not request["before"]:
        time.sleep(request["seconds"])
        os.kill(pid, request["number"])
    _, status, used = os.wait4(pid, 0)
    peak = used.ru_maxrss >> (20 if sys.platform == "darwin" else 10)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began, peak]), flush=True)
"""
"""Run one command line per line of input in a fork."""


@dataclass(frozen=True, slots=True)
class Run:
    """The end of a run: its exit code, standard output, standard error, seconds, and peak memory in MiB."""

    code: int
    out: str
    err: str
    seconds: float = 0
    peak: int = 0


class Forks:
    """A child process that runs command lines in forks."""

    def __init__(self, child: subprocess.Popen[str], log: Path) -> None:
        """Use `child`, which runs FORKS, and files whose names begin with `log` for the output of the runs."""
        self.child, self.log = child, log

    def run(self, args: Sequence[str | Path], number: int = 0, **options: Any) -> Run:  # noqa: ANN401 - those of `start`
        """Run a command line to its end; `start` has the options."""
        self.start(args, number, **options)
        return self.wait()

    def start(self, args: Sequence[str | Path], number: int = 0, **options: Any) -> None:  # noqa: ANN401 - several types
        """Start a command line that gets the signal `number` before the n-th call of a function, or after `seconds`.

        The options: `before` is the function ("write", or a name in `os`) and n. `ignored` is a signal to ignore.
        `user` is the user who runs it, if these tests run as root. `folder` is the working directory. `limits` are
        resource limits by name.
        """
        request = {"args": [str(arg) for arg in args], "number": number, "log": str(self.log)}
        request |= {"before": None, "seconds": 0, "ignored": 0, "user": 0, "limits": {}, **options}
        request["folder"] = str(options.get("folder") or Path.cwd())
        assert self.child.stdin is not None
        print(json.dumps(request), file=self.child.stdin, flush=True)

    def wait(self) -> Run:
        """Return the end of the run that was started."""
        assert self.child.stdout is not None
        code, seconds, peak = json.loads(self.child.stdout.readline())
        out, err = (Path(f"{self.log}.{name}").read_text(encoding="utf-8") for name in ("out", "err"))
        return Run(code, out, err, seconds, peak)


@contextmanager
def forking() -> Iterator[Forks]:
    """Start a process that forks."""
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(OPENBLAS_NUM_THREADS="1", PYTHONIOENCODING="utf-8"),
        )
        with child:
            yield Forks(child, Path(folder) / "log")


def killed_process(number: int, where: str, count: int, args: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a new Python, which gets the signal `number` before the `count`-th call of `where`."""
    arguments = [sys.executable, "-c", PROCESS, where, str(count), str(number), *args]
    return subprocess.run(arguments, capture_output=True, check=False, env=environment())


# --- the command lines and their targets

KINDS = [f"{target}{option}" for target in ("file", "directory") for option in ("", " --force", " --in-place")]
"""What is pruned, and the option that says what may be replaced."""


def command(source: Path, output: Path, *options: str) -> list[str]:
    """Return a command line that prunes `source`."""
    return ["threshold", str(source), "--thr", "0.5", "-o", str(output), "-q", *options]


def names_in(folder: Path) -> set[str]:
    """Return the names of the files in `folder`."""
    return {path.name for path in folder.iterdir()}


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of every file in a directory; an empty dict if there is neither."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def prepare(kind: str, inputs: Path, folder: Path) -> tuple[Path, list[str]]:
    """Make `folder` anew with the files that a run of `kind` needs; return its target and its command line."""
    name, _, option = kind.partition(" ")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source, target = inputs / name, folder / "out"
    if option:
        copy = shutil.copytree if name == "directory" else shutil.copyfile
        copy(source, target)
    paths = [str(target), option] if option == "--in-place" else [str(source), "-o", str(target), *option.split()]
    return target, ["threshold", *paths, "--thr", "0.5", "-q", "--report", str(folder / "report.json"), "-f"]


def moments(seed: object, count: int, end: float) -> list[float]:
    """Return `count` random numbers between 0 and `end`."""
    generator = random.Random(str(seed))
    return [generator.uniform(0, end) for _ in range(count)]
