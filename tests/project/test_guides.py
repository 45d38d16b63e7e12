"""The guides to kinds of models: their commands run on small files of these kinds, and their Python works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import ROOT
from torch import nn

from prunecli.cli.main import main

PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("llm", "vision")}


def linear(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return the weights of a layer."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def save_llm(folder: Path) -> None:
    """Write a directory of two shards with the names of a Llama with experts."""
    folder.mkdir()
    for shard in (1, 2):
        layer = {
            f"model.layers.{shard}.{name}.weight": linear(16, 8, seed)
            for seed, name in enumerate(("self_attn.q_proj", "mlp.gate", "mlp.router", "mlp.up_proj"))
        }
        ends = {"model.embed_tokens.weight": linear(32, 8, 9)} if shard == 1 else {"lm_head.weight": linear(32, 8, 8)}
        save_file({**layer, **ends}, folder / f"model-0000{shard}-of-00002.safetensors")


def save_vision(folder: Path) -> None:
    """Write the three kinds of files of the page."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.dfl = nn.Module()
            self.dfl.conv = nn.Conv2d(16, 1, 1, bias=False)
            self.dfl.conv.weight.data[:] = torch.arange(16.0).reshape(1, 16, 1, 1)

    states = [Head().state_dict() for _ in range(2)]
    torch.save({"epoch": 3, "model": states[0], "ema": states[1], "optimizer": {}}, folder / "yolo.pt")
    names = (
        "model.diffusion_model.input_blocks.1.0.in_layers",
        "first_stage_model.encoder.conv_in",
        "cond_stage_model.a",
    )
    save_file({f"{name}.weight": linear(8, 8, seed) for seed, name in enumerate(names)}, folder / "sd.safetensors")
    resnet = {"conv1.weight": torch.randn(4, 3, 3, 3), "layer1.0.conv1.weight": torch.randn(8, 4, 3, 3)}
    torch.save({**resnet, "layer1.0.bn1.weight": torch.ones(8), "fc.weight": linear(10, 8, 1)}, folder / "resnet.pth")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_guide_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the page's shell blocks ends with 0, or 1 for `prune diff`."""
    monkeypatch.chdir(tmp_path)
    if page == "llm":
        save_llm(tmp_path / "model")
    else:
        save_vision(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGES[page], re.DOTALL) for line in block.splitlines()]

    codes = {line: main(shlex.split(line, comments=True)[1:]) for line in lines}

    assert lines
    assert codes == {line: int(line.startswith("prune diff")) for line in lines}


def test_norms_of_activations_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of the page writes what Wanda needs: the norm of each input over all tokens."""
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGES["llm"], re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - the page's own code

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.b(self.a(x))
            return out

    torch.manual_seed(0)
    model, batches = Model(), [{"x": torch.randn(2, 3, 8)}, {"x": torch.randn(1, 5, 8)}]
    names["save_activation_norms"](model, batches, "norms.safetensors")  # type: ignore[operator]
    save_file(model.state_dict(), "model.safetensors")

    tokens = torch.cat([batch["x"].flatten(0, 1) for batch in batches])
    assert torch.allclose(load_file("norms.safetensors")["a.weight"], tokens.norm(dim=0), rtol=1e-5)
    assert (
        main(["l1", "model.safetensors", "--amount", "50%", "--scope", "row", "--act-norms", "norms.safetensors"]) == 0
    )
    score = model.a.weight.detach().abs() * tokens.norm(dim=0)
    kept = load_file("model.pruned.safetensors")["a.weight"] != 0
    assert torch.equal(kept, score >= score.sort(dim=1).values[:, 4:5])
