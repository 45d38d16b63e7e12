"""Several processes that do one run together: forks of one process that has imported torch, so that a run is cheap."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.children import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FORKS = """
import gc, json, os, signal, sys, time
import numpy, torch, torch.distributed, prunecli.cli.main, prunecli.api, prunecli.engine.files, prunecli.__main__
import prunecli.distributed.gloo, prunecli.engine.rank_planner, prunecli.engine.measured_planner

gc.collect()
gc.freeze()  # forks copy the pages whose objects they count

def child(request, rank):
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{request['log']}.{rank}.{name}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.environ.update(request["environment"], RANK=str(rank), **request["own"].get(str(rank), {}))
    words = request["words"][rank] if isinstance(request["words"][0], list) else request["words"]
    sys.argv = ["prune", *words]
    torch.set_num_threads(1)
    exec(request["code"], {"rank": rank, "size": request["size"], "words": words})

def wait(pids, limit):
    codes, end = {}, time.monotonic() + limit  # ends what would hang
    while len(codes) < len(pids):
        for rank, pid in enumerate(pids):
            if rank not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[rank] for rank in range(len(pids))]

for line in sys.stdin:
    request = json.loads(line)
    pids = []
    for rank in range(request["size"]):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                child(request, rank)
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    print(json.dumps({"codes": wait(pids, request["limit"])}), flush=True)
"""
"""Reads requests, one a line, runs each in forks, and answers with their exit codes."""

PRUNE = "from prunecli.__main__ import main; main()"


@dataclass(frozen=True, slots=True)
class Ended:
    """How the processes of a run ended, by rank."""

    codes: list[int]
    stdout: list[str]
    stderr: list[str]


class Together:
    """Runs Python code, by default `prune`, in several processes that find each other on the loopback."""

    def __init__(self, child: subprocess.Popen[str], folder: Path) -> None:
        """Take the process that forks, and a folder for what the forks print."""
        self._child, self._log = child, folder / "log"

    def run(
        self,
        size: int,
        words: Sequence[object] | Sequence[Sequence[object]] = (),
        code: str = PRUNE,
        *,
        own: dict[int, dict[str, str]] | None = None,
        limit: float = 60,
        **variables: str,
    ) -> Ended:
        """Run `code` in `size` processes, with the same words or one list of words for each of them.

        `variables` are for the environment of all, `own` for that of single ranks.
        """
        lists = [[str(word) for word in one] if isinstance(one, (list, tuple)) else str(one) for one in words] or [""]
        basic = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        request: dict[str, Any] = {"size": size, "words": lists, "code": code, "limit": limit, "own": own or {}}
        request |= {"environment": {**basic, **variables}, "log": str(self._log)}
        if self._child.stdin is None or self._child.stdout is None:
            raise AssertionError
        print(json.dumps(request), file=self._child.stdin, flush=True)
        answer = json.loads(self._child.stdout.readline())
        printed = [
            [self._log.with_name(f"log.{rank}.{name}").read_text() for rank in range(size)]
            for name in ("stdout", "stderr")
        ]
        return Ended(answer["codes"], *printed)


def free_port() -> int:
    """Return a port that no program uses now."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def together(folder: Path) -> Iterator[Together]:
    """Start the process that forks, and end it with the block."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], env=environment(TORCH_CPP_LOG_LEVEL="FATAL"), **pipes
    ) as child:
        try:
            yield Together(child, folder)
        finally:
            if child.stdin is not None:
                child.stdin.close()
