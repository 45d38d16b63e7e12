"""Completion of tensor names in the shells: a name from a file never runs a command."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.children import environment

from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "touch PWNED"
HOSTILE = [
    f"$({RUN})",
    f"\\$({RUN})",
    f"\\\\$({RUN})",
    f"`{RUN}`",
    f"\\`{RUN}\\`",
    f"';{RUN};'",
    f'";{RUN};"',
    f"x';{RUN} #",
    f"a b;{RUN}",
    f"a\n{RUN}\n",
    f"a\r{RUN}\r",
    f"|{RUN}",
    f"&{RUN}&",
    f"<({RUN})",
    f"(e:'{RUN}':)",
    f"))'; {RUN} #",
    "~",
    "*",
    "?",
    "[a]",
    "{a,b}",
    "!!",
    "!ls",
    "#",
    "%",
    "^a^b",
    "a:b",
    "$HOME",
    "${PATH}",
    "\x1b[31m",
    "\u00e9",
]
PLAIN = "layers.0/attn-q_proj.weight"
SHELLS = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["-f", "-i"],
    "fish": ["--no-config", "-i"],
}
IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Make the standard input the controlling terminal, which fish needs, and start the shell."""


def save(path: Path, *names: str) -> Path:
    """Write a matrix under each of the names."""
    save_file({name: np.ones((2, 2), np.float32) for name in names}, path)
    return path


def offered(capsys: pytest.CaptureFixture[str], path: Path, shell: str, start: str) -> str:
    """Return what Typer prints for the shell's completion of `-i START`."""
    line = f"prune l1 {path.name} -i {start}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_PRUNE_COMPLETE", f"complete_{shell}")
        patch.setenv("_TYPER_COMPLETE_ARGS", line)
        patch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        patch.setenv("COMP_WORDS", line)
        patch.setenv("COMP_CWORD", "4")
        with pytest.raises(SystemExit):
            main([])
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_only_plain_names_are_offered(
    name: str, shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with a character that a shell could interpret is not offered, wherever the character is."""
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "m.safetensors", name, f"layers.0.{name}", f"{name}.weight", "layers.7", PLAIN)

    printed = offered(capsys, path, shell, "layers.")

    assert PLAIN in printed
    assert "layers.7" in printed
    assert f"layers.0.{name[:1]}" not in printed
    assert offered(capsys, path, shell, "").count("layers.") == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prune global m.pth --normalize ", ["none", "l2", "rms", "lamp"]),
        ("prune l1 m.pth --allocate u", ["uniform", "uniform+"]),
        ("prune topk m.pth --tail ", ["keep", "zero", "error"]),
        ("prune l1 m.pth --of ", ["all", "remaining"]),
        ("prune l1 m.pth --device ", ["auto", "cpu", "cuda", "mps", "xpu"]),
        ("prune check m.pth --color ", ["auto", "always", "never"]),
        ("prune search m.pth ", ["percentile", "l1", "global", "structured", "block", "random"]),
        ("prune search m.pth l1 --scope ", ["tensor", "row"]),
        ("prune search m.pth l1 --max-", ["--max-drop"]),
        ("prune sweep m.pth l1 --at 0.5 ", []),
        ("prune ins", ["inspect"]),
    ],
)
def test_values_that_are_offered(
    line: str, expected: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, strategies and options are offered in the order of the help."""
    monkeypatch.setenv("_PRUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main([])

    assert capsys.readouterr().out.split() == expected


def test_a_name_that_starts_with_a_dash_is_not_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-i <TAB>` does not write `--in-place` for a tensor of that name."""
    monkeypatch.chdir(tmp_path)

    assert "--in-place" not in offered(capsys, save(tmp_path / "m.safetensors", "--in-place", PLAIN), "bash", "")


# --- in the real shells


class Terminal:
    """An interactive shell in a pseudo-terminal, in which `prune` is this checkout and its completion is installed."""

    def __init__(self, shell: str, folder: Path) -> None:
        """Start the shell in `folder` and load the script that `prune --show-completion` prints."""
        script = self._script(shell, folder)
        self._count = 0
        self._master, slave = pty.openpty()
        own = {"HOME": str(folder), "TERM": "dumb", "PS1": "> ", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, shutil.which(shell) or shell, *SHELLS[shell]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment(**own),
            start_new_session=True,
        )
        os.close(slave)
        for line in (
            ("autoload -Uz compinit; compinit -u -D", f"source {script}") if shell == "zsh" else (f". {script}",)
        ):
            self.wait(line)

    @staticmethod
    def _script(shell: str, folder: Path) -> Path:
        """Write the completion script of Typer, and `prune` as a command in a folder of the PATH."""
        program = folder / "bin" / "prune"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m prunecli "$@"\n')
        program.chmod(0o755)
        variables = {"_PRUNE_COMPLETE": f"source_{shell}"}
        printed = subprocess.run([program], env=environment(**variables), capture_output=True, text=True, check=True)
        script = folder / "bin" / "completion"
        script.write_text(printed.stdout)
        return script

    def type(self, keys: str) -> None:
        """Type `keys`; the shell reads them in order, so a command that follows a TAB runs after the completion."""
        os.write(self._master, keys.encode())

    def wait(self, command: str) -> str:
        """Run `command`, wait until it is done, and return what the terminal showed meanwhile."""
        self._count += 1
        self.type(f"{command}; echo DO''NE{self._count}.\r")
        return self._until(f"DONE{self._count}.")

    def _until(self, text: str) -> str:
        shown = b""
        while text.encode() not in shown:
            shown += os.read(self._master, 65_536)  # OSError if the shell ends
        return shown.decode(errors="replace")

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """Start each shell that is installed here."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    started = Terminal(request.param, tmp_path)
    yield started
    started.close()


@pytest.mark.slow
def test_a_hostile_name_runs_nothing_in_a_shell(terminal: Terminal, tmp_path: Path) -> None:
    """TAB after -i, and ENTER on the completed line, run no command of a name; a plain name is completed."""
    for number, name in enumerate(name for name in HOSTILE if RUN in name):
        save(tmp_path / f"m{number}.safetensors", f"layers.0.{name}", "plain")
        terminal.type(f"prune l1 m{number}.safetensors --amount 50% -n -i layers.0.\t")
        terminal.wait(" x")
        assert not list(tmp_path.rglob("PWNED")), name
    (tmp_path / f"f$({RUN}).safetensors").write_bytes((tmp_path / "m0.safetensors").read_bytes())
    terminal.type("prune inspect f\t")
    terminal.wait("")
    assert not list(tmp_path.rglob("PWNED"))


def test_values_are_completed_in_a_shell(terminal: Terminal, tmp_path: Path) -> None:
    """TAB completes the values of options, and the strategy of a sweep with its options; the lines then run."""
    save(tmp_path / "m.safetensors", PLAIN)

    terminal.type("prune l1 m.safetensors --amount 50% --scope ro\t --device cp\t --color nev\t -o out.safetensors")
    terminal.wait("")
    terminal.type("prune sweep m.safetensors glo\t --normalize lam\t --at 50% --eval 'echo 1 {}' --stat\t s.json")
    terminal.wait("")

    report = json.loads((tmp_path / "out.safetensors.report.json").read_text())
    assert (report["strategy"]["scope"], report["device"]) == ("row", "cpu")
    assert '"normalize": "lamp"' in (tmp_path / "s.json").read_text()


def test_a_plain_name_is_completed_in_a_shell(terminal: Terminal, tmp_path: Path) -> None:
    """TAB completes a plain name, and the completed line prunes that tensor."""
    save(tmp_path / "m.safetensors", PLAIN, f"other$({RUN})", "b.weight")

    terminal.type("prune l1 m.safetensors --amount 50% -o out.safetensors -i lay\t")
    terminal.wait("")

    assert (tmp_path / "out.safetensors").exists()
    assert not (tmp_path / "PWNED").exists()
