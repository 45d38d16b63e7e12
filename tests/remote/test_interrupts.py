"""A server that never answers does not keep a run from ending."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from support.children import start_python
from support.remote_models import save_model

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import Asked, Handler, Served


def test_ctrl_c_ends_a_run_that_waits(web: Served, tmp_path: Path) -> None:
    """The run ends long before the connection counts as broken, and leaves no file."""
    save_model(web.folder / "model.safetensors", rows=512)
    waiting, over = threading.Event(), threading.Event()

    def fault(_: Handler, asked: Asked) -> bool:
        if not asked.range or asked.range[1] < 65536:
            return False
        waiting.set()
        return over.wait()

    web.fault = fault
    command = ("-m", "prunecli", "threshold", f"{web.url}/model.safetensors", "--thr", "0.1", "-o", "out.safetensors")
    with start_python(*command) as child:
        assert waiting.wait(60)
        child.send_signal(signal.SIGINT)
        code = child.wait(15)
    over.set()

    assert (code, list((tmp_path / "work").iterdir())) == (130, [])
