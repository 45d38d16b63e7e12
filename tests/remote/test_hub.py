"""Models of the Hub: one request a shard, tokens, revisions, and listings that lie."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from support.remote_models import contents, save_model, save_shards
from support.servers import COMMIT, Handler, Hub, serving

from prunecli.api import prune as prune_checkpoint
from prunecli.formats.open import open_checkpoint
from prunecli.remote.hub import open_store
from prunecli.strategies.thresholds import Threshold

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune
    from support.servers import Asked, Served


def test_inspect_reads_headers_alone(hub: Served, prune: Prune) -> None:
    """Each shard, the index and the configuration are asked for once, and no weight is."""
    save_shards(hub.folder / "org/model", rows=1024)

    ran = prune("inspect", "hf://org/model")

    assert (ran.code, len(hub.asked)) == (0, 5)
    assert {None, (0, 65535)} < {asked.range for asked in hub.asked}
    assert hub.sent < 140_000
    assert "read at the commit 0123456789ab" in ran.out
    assert "--read counts zeros; it reads 4.2 MB" in ran.err


def test_the_files_are_those_that_the_library_of_the_hub_lists(hub: Served) -> None:
    """`huggingface_hub` gets the same names and sizes from the stand-in."""
    library = pytest.importorskip("huggingface_hub")
    save_shards(hub.folder / "org/model")

    store, _ = open_store("hf://org/model")
    info = library.HfApi(endpoint=hub.url).model_info("org/model", revision="main", files_metadata=True)

    assert {one.rfilename: one.size for one in info.siblings} == {n: f.size for n, f in store.files.items()}


def test_a_pruned_model_is_that_of_its_copy(hub: Served, tmp_path: Path) -> None:
    """The shards and the small files are the same as for a local folder; other weights are left out and named."""
    folder = save_shards(hub.folder / "org/model")

    report = prune_checkpoint("hf://org/model", Threshold(0.5), reports=())
    (folder / "pytorch_model.bin").unlink()
    prune_checkpoint(folder, Threshold(0.5), output=tmp_path / "local", reports=())

    assert contents(tmp_path / "local") == contents(tmp_path / "work" / "model.pruned")
    assert (report.input_path, report.output_path) == ("hf://org/model", "model.pruned")
    assert any("pytorch_model.bin" in fact for fact in report.facts)


def test_a_revision_is_resolved_once(hub: Served) -> None:
    """The list is that of the revision, and files are asked for at its commit."""
    save_shards(hub.folder / "org/model")

    open_checkpoint("hf://org/model@refs/pr/1", remote=True)

    assert hub.asked[0].path.startswith("/api/models/org/model/revision/refs%2Fpr%2F1?")
    assert all(f"/resolve/{COMMIT}/" in asked.path for asked in hub.asked[1:])


def test_an_output_has_the_name_of_the_model_without_its_revision(hub: Served, prune: Prune, tmp_path: Path) -> None:
    """The default output lies in the current directory."""
    save_shards(hub.folder / "org/model")

    assert prune("threshold", "hf://org/model@main", "--thr", "1", "-q", "--no-report").code == 0
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["model.pruned"]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("hf://org/none", "there is no model hf://org/none"),
        ("hf://org/model@nope", "hf://org/model has no revision 'nope'"),
        ("hf://org/model/mode.safetensors.index.json", "there is no mode.safetensors.index.json in hf://org/model"),
        ("hf://datasets/org/data", "only models of the Hub are read"),
        ("hf://", "names no model of the Hub"),
    ],
)
def test_what_is_not_there(hub: Served, prune: Prune, url: str, sentence: str) -> None:
    """Each case is one sentence with a hint."""
    save_shards(hub.folder / "org/model")

    ran = prune("inspect", url)

    assert ran.code == 2
    assert sentence in ran.err
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["error", "hint"]


def test_a_wrong_token_is_named(hub: Served, prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names HF_TOKEN and not the token."""
    save_shards(hub.folder / "org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")

    ran = prune("inspect", "hf://org/model")

    assert ran.code == 2
    assert "does not accept the token in HF_TOKEN" in ran.err
    assert "hf_wrong" not in ran.err


def test_a_token_of_the_environment_or_of_the_login_is_sent(
    hub: Served, prune: Prune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`HF_TOKEN` comes first, then the file that `hf auth login` writes."""
    save_model(hub.folder / "private/model/model.safetensors")
    monkeypatch.setattr(Hub, "token", "hf_right")
    assert "HF_TOKEN" in prune("inspect", "hf://private/model").err

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_right\n")
    assert prune("inspect", "hf://private/model").code == 0

    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert prune("inspect", "hf://private/model").code == 2


class Redirecting(Hub):
    """Gives large files by another server, as the Hub does."""

    other = ""

    def resolve(self, file: Path, _: Asked, /) -> None:
        """Redirect to the other server."""
        self.say(302, {"Location": f"{self.other}/{file.relative_to(self.served.folder)}?signature=secret"})


def test_a_token_stays_with_its_server(tmp_path: Path, prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server, to which the Hub redirects, gets no token; its address is used again and is in no message."""
    folder = tmp_path / "hub"
    save_model(folder / "org/model/model.safetensors")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(Hub, "token", "hf_right")
    with serving(folder, Redirecting) as hub, serving(folder) as cdn:
        monkeypatch.setattr(Redirecting, "other", cdn.url)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

        ran = prune("threshold", "hf://org/model", "--thr", "0.5", "--json", "-o", "out")

    assert (0, {"hf_right"}) == (ran.code, {asked.token for asked in hub.asked})
    assert {""} == {asked.token for asked in cdn.asked}
    assert (len(hub.asked), len(cdn.asked)) == (2, 2)  # the list, one file; its header and its weights
    assert "secret" not in ran.out + ran.err


def test_an_address_that_expires_is_asked_for_again(
    tmp_path: Path, prune: Prune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server answers 403 to the second request, and the Hub gives a new address."""
    folder = tmp_path / "hub"
    save_model(folder / "org/model/model.safetensors")
    with serving(folder, Redirecting) as hub, serving(folder) as cdn:
        monkeypatch.setattr(Redirecting, "other", cdn.url)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        cdn.fault = lambda handler, _: len(cdn.asked) == 2 and (handler.say(403) or True)

        ran = prune("threshold", "hf://org/model", "--thr", "0.5", "-q", "--no-report")

    assert (ran.code, len(hub.asked), len(cdn.asked)) == (0, 3, 3)


def listing(siblings: object, sha: str = COMMIT) -> bytes:
    """Return the list of a model."""
    return json.dumps({"sha": sha, "siblings": siblings}).encode()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (listing([{"rfilename": "../x", "size": 1}]), "no name inside of it"),
        (listing([{"rfilename": "/etc/x", "size": 1}]), "no name inside of it"),
        (listing([{"rfilename": "a\nb", "size": 1}]), "no name inside of it"),
        (listing([{"rfilename": "x"}]), "without a name or a size"),
        (listing([{"rfilename": "x", "size": -1}]), "without a name or a size"),
        (listing([{"rfilename": "x", "size": True}]), "without a name or a size"),
        (listing([7]), "without a name or a size"),
        (listing([], sha="../.."), "names no commit"),
        (listing("x"), "no valid list"),
        (b"[" * 100_000, "no valid list"),
        (b"<html>", "no valid list"),
    ],
)
def test_lists_that_lie(hub: Served, prune: Prune, body: bytes, sentence: str) -> None:
    """A list of files is data of a stranger."""

    def fault(handler: Handler, _: Asked) -> bool:
        handler.say(200, {}, body)
        return True

    hub.fault = fault

    ran = prune("inspect", "hf://org/model")

    assert ran.code == 2
    assert sentence in ran.err


def test_a_list_without_end_is_cut(hub: Served, prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a limit is not read."""
    monkeypatch.setattr("prunecli.remote.documents.LARGEST", 1000)

    def fault(handler: Handler, _: Asked) -> bool:
        handler.say(200, {}, b" " * 2000)
        return True

    hub.fault = fault

    assert "more than 1,000 bytes" in prune("inspect", "hf://org/model").err


def test_a_size_that_lies(hub: Served, prune: Prune) -> None:
    """A file that is longer or shorter than the list says is refused, and nothing is written."""
    file = save_model(hub.folder / "org/model/model.safetensors")

    def fault(_: Handler, asked: Asked) -> bool:
        if "/resolve/" in asked.path:
            file.write_bytes(file.read_bytes() + b"x")
        return False

    hub.fault = fault

    ran = prune("threshold", "hf://org/model", "--thr", "0.5", "-o", "out")

    assert ran.code == 2
    assert "changed while it was being read" in ran.err


def test_offline_means_offline(hub: Served, prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE nothing is asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    ran = prune("inspect", "hf://org/model")

    assert (ran.code, hub.asked) == (2, [])
    assert "HF_HUB_OFFLINE" in ran.err


def test_an_old_model_has_no_organisation(hub: Served, prune: Prune) -> None:
    """`hf://gpt2/model.safetensors` names a file of `gpt2`."""
    save_model(hub.folder / "gpt2/model.safetensors")

    assert prune("inspect", "hf://gpt2/model.safetensors").code == 0
    assert prune("inspect", f"{hub.url}/org/none").err.startswith("error: there is no model hf://org/none")


def test_the_hint_for_what_is_no_model_is_not_for_local_files(hub: Served, prune: Prune) -> None:
    """A text and a folder without a model are refused with the line that downloads them."""
    (hub.folder / "org/model").mkdir(parents=True)
    (hub.folder / "org/model/notes.bin").write_text("hello")

    for url in ("hf://org/model", "hf://org/model/notes.bin"):
        assert "hint: download it first: hf download org/model" in prune("inspect", url).err


def test_the_headers_of_records_are_fetched_side_by_side(hub: Served, prune: Prune) -> None:
    """A torch file has a header for each record: short reads, several at the same time."""
    path = hub.folder / "org/model/model.pth"
    path.parent.mkdir(parents=True)
    torch.save({f"layers.{i}.weight": torch.zeros(128, 256) for i in range(20)}, path)

    assert prune("inspect", "hf://org/model/model.pth").code == 0
    assert hub.sent < path.stat().st_size / 4
