"""Files of web servers, which may be slow, broken, changed, without ranges, or hostile."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NoReturn

import pytest
from support.remote_models import save_model, save_shards
from support.servers import Handler, serving

from prunecli.api import prune as prune_checkpoint
from prunecli.remote.connections import RequestError, _redirected
from prunecli.strategies.thresholds import Threshold

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.command_line import Prune
    from support.servers import Asked, Served

    Fault = Callable[[Handler, Asked], bool]

THRESHOLD = ("--thr", "0.5", "--no-report", "-q")


@pytest.fixture
def model(web: Served) -> Path:
    """Write a model that the server has."""
    return save_model(web.folder / "model.safetensors", rows=512)


@pytest.fixture
def url(web: Served, model: Path) -> str:
    """Return the URL of the model."""
    return f"{web.url}/{model.name}"


def local(model: Path, output: Path) -> bytes:
    """Return the model pruned from its file."""
    prune_checkpoint(model, Threshold(0.5), output=output, reports=())
    return output.read_bytes()


def test_a_file_is_pruned_in_one_pass(web: Served, url: str, model: Path, prune: Prune, tmp_path: Path) -> None:
    """The output is that of the local file; the header is read twice and all else once."""
    assert prune("threshold", url, *THRESHOLD).code == 0

    assert local(model, tmp_path / "local.safetensors") == (tmp_path / "work/model.pruned.safetensors").read_bytes()
    assert web.sent <= model.stat().st_size + 65536 + 1


def test_a_broken_connection_is_resumed_at_its_byte(
    web: Served, url: str, model: Path, prune: Prune, tmp_path: Path
) -> None:
    """Each answer to a long request breaks after some bytes, and the next request begins with the next byte."""

    def fault(handler: Handler, asked: Asked) -> bool:
        first, last = asked.range or (0, 0)
        if last - first < 400_000:
            return False
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{last}/{model.stat().st_size}")
        handler.send_header("Content-Length", str(last - first + 1))
        handler.end_headers()
        handler.send_bytes(model, first, first + 300_000)
        handler.close_connection = True
        return True

    web.fault = fault

    assert prune("threshold", url, *THRESHOLD, "-o", "out.safetensors").code == 0

    assert local(model, tmp_path / "local.safetensors") == (tmp_path / "work/out.safetensors").read_bytes()
    assert [asked.range[0] for asked in web.asked if asked.range and asked.range[1] > 65535] == [
        0,
        300_000,
        600_000,
        900_000,
    ]


def broken(handler: Handler, asked: Asked) -> bool:
    """Break off the weights at once."""
    if (asked.range or (0, 0))[1] > 65535:
        handler.close_connection = True
        return True
    return False


def unavailable(handler: Handler, asked: Asked) -> bool:
    """Answer 503."""
    if asked.range and asked.range[1] > 65535:
        handler.say(503)
        return True
    return False


def other_part(handler: Handler, asked: Asked) -> bool:
    """Send the bytes before those that are asked for."""
    if not asked.range or asked.range[1] <= 65535:
        return False
    size = (handler.served.folder / "model.safetensors").stat().st_size
    handler.say(206, {"Content-Range": f"bytes 9-18/{size}"}, bytes(10))
    return True


def no_part(handler: Handler, _: Asked) -> bool:
    """Send a part without saying which."""
    handler.say(206, {}, bytes(10))
    return True


def compressed(handler: Handler, asked: Asked) -> bool:
    """Send a compressed part."""
    first, last = asked.range or (0, 0)
    handler.say(206, {"Content-Encoding": "gzip", "Content-Range": f"bytes {first}-{last}/{10**7}"}, bytes(10))
    return True


def endless(handler: Handler, _: Asked) -> bool:
    """Send the whole of a file that never ends."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")
    except OSError:
        handler.close_connection = True
    return True


def huge_header(handler: Handler, asked: Asked) -> bool:
    """Say that the header of a small file is as long as safetensors allows."""
    first, last = asked.range or (0, 0)
    body = (10**8).to_bytes(8, "little") + b"{" + bytes(100_000)
    last = min(last, len(body) - 1)
    handler.say(206, {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1])
    return True


def circle(handler: Handler, asked: Asked) -> bool:
    """Redirect to the same address."""
    handler.say(302, {"Location": asked.path})
    return True


def nowhere(handler: Handler, _: Asked) -> bool:
    """Redirect to a file of this machine."""
    handler.say(302, {"Location": "file:///etc/passwd"})
    return True


def denied(handler: Handler, _: Asked) -> bool:
    """Answer 403."""
    handler.say(403)
    return True


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (broken, "cannot read http://127.0.0.1"),
        (unavailable, "the server answers 503"),
        (other_part, "sends the bytes 9 to 18, which were not asked for"),
        (no_part, "sends a part of the file without saying which"),
        (compressed, "sends a compressed body"),
        (endless, "sends whole files only"),
        (huge_header, "truncated"),
        (circle, "redirects more than 5 times"),
        (nowhere, "redirects to what is no web address"),
        (denied, "without permission: it answers 403"),
    ],
)
def test_a_server_that_fails_or_lies(web: Served, url: str, prune: Prune, fault: Fault, sentence: str) -> None:
    """Each case is one sentence, and no output."""
    web.fault = fault

    ran = prune("threshold", url, *THRESHOLD, "-o", "out.safetensors")

    assert (ran.code, ran.err.count("error: ")) == (2, 1)
    assert sentence in ran.err
    assert "Traceback" not in ran.err


def test_a_failure_leaves_no_file(web: Served, url: str, prune: Prune, tmp_path: Path) -> None:
    """The output is whole or absent."""
    web.fault = broken

    prune("threshold", url, *THRESHOLD, "-o", "out.safetensors")

    assert list((tmp_path / "work").iterdir()) == []


def test_a_server_without_ranges_is_refused(web: Served, url: str, prune: Prune) -> None:
    """The hint downloads the file; no more than the start of the whole file was taken."""
    web.ranges = False

    ran = prune("inspect", url)

    assert ran.code == 2
    assert "sends whole files only" in ran.err
    assert f"hint: download it first: curl -fLO {url}" in ran.err


def test_a_small_file_may_come_whole(web: Served, prune: Prune) -> None:
    """A server without ranges can give a file that fits into the first request."""
    save_model(web.folder / "small.safetensors", 1, rows=8)
    web.ranges = False

    assert prune("inspect", f"{web.url}/small.safetensors").code == 0


@pytest.mark.parametrize("what", ["tag", "size"])
def test_a_file_that_changes_is_refused(web: Served, url: str, model: Path, prune: Prune, what: str) -> None:
    """Another ETag or another size than that of the header is another file."""
    tags = iter("abcdefgh")
    if what == "tag":
        web.etag = lambda _: next(tags)
    else:
        web.etag = lambda _: "a"
        web.fault = lambda _, __: len(web.asked) == 3 and not model.write_bytes(model.read_bytes() + b"x")

    ran = prune("threshold", url, *THRESHOLD, "-o", "out.safetensors")

    assert ran.code == 2
    assert "changed while it was being read" in ran.err


def test_a_change_after_the_last_read_is_found(web: Served, url: str, prune: Prune) -> None:
    """The last request of a run compares the ETag."""
    web.etag = lambda _: str(len(web.asked) > 3)  # the header, the configuration, the weights

    ran = prune("threshold", url, *THRESHOLD, "-o", "out.safetensors")

    assert "changed while it was being read" in ran.err
    assert len(web.asked) == 4


def test_a_redirect_to_another_server_is_followed(web: Served, url: str, model: Path, prune: Prune) -> None:
    """The bytes are those of the other server."""
    with serving(web.folder) as other:

        def fault(handler: Handler, asked: Asked) -> bool:
            handler.say(307, {"Location": f"{other.url}{asked.path}"})
            return True

        web.fault = fault

        ran = prune("diff", url, model)

    assert ran.code == 0
    assert len(other.asked) > 1


def test_no_redirect_leads_from_https_to_http() -> None:
    """A connection that was encrypted stays so."""
    assert _redirected("https://a/x", "https://b/y") == "https://b/y"
    with pytest.raises(RequestError, match="from https to http"):
        _redirected("https://a/x", "http://b/y")


def test_what_is_secret_in_a_url_is_in_no_text(web: Served, url: str, prune: Prune, tmp_path: Path) -> None:
    """The query and the password go to the server, and neither to messages nor to reports."""
    secret = f"{url.replace('://', '://user:pass@')}?signature=hush"

    ran = prune(
        "threshold", secret, "--thr", "0.5", "-o", "out.safetensors", "--report", "r.json", "--report", "r.html"
    )
    inspected = prune("inspect", secret, "--html", "page.html")
    failed = prune("l1", secret, "--amount", "0.5")

    texts = [*ran[1:], *inspected[1:], *failed[1:]]
    texts += [(tmp_path / "work" / name).read_text() for name in ("r.json", "r.html", "page.html")]
    assert not [text for text in texts if "hush" in text or "pass@" in text]
    assert url in (tmp_path / "work" / "r.json").read_text()
    assert web.asked[0].path == "/model.safetensors?signature=hush"
    assert web.asked[0].headers["authorization"] == "Basic dXNlcjpwYXNz"


def test_an_index_names_the_shards(web: Served, prune: Prune, tmp_path: Path) -> None:
    """The files next to an index are asked for by their names."""
    save_shards(web.folder / "model")

    ran = prune("threshold", f"{web.url}/model/model.safetensors.index.json", *THRESHOLD)

    assert ran.code == 0
    assert {path.name for path in (tmp_path / "work/model.pruned").iterdir()} >= {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "http://127.0.0.1/x.safetensors"])
def test_an_index_that_leaves_its_folder(web: Served, prune: Prune, name: str) -> None:
    """No file outside of the folder is asked for."""
    (web.folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{name}"}}}}')

    ran = prune("inspect", f"{web.url}/model.safetensors.index.json")

    assert ran.code == 2
    assert "not a plain path inside its directory" in ran.err
    assert {"/model.safetensors.index.json"} == {asked.path for asked in web.asked}


def test_a_file_that_is_missing(web: Served, prune: Prune) -> None:
    """404 is a sentence."""
    ran = prune("inspect", f"{web.url}/none.safetensors")

    assert (2, f"error: there is no {web.url}/none.safetensors: the server answers 404\n") == (ran.code, ran.err)


def test_a_server_that_is_missing(prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without an address, and a port without a server, fail at once."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = prune("inspect", f"http://127.0.0.1:{free.getsockname()[1]}/model.safetensors")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    unknown = prune("inspect", "https://nowhere.invalid/model.safetensors")

    assert "Connection refused" in refused.err
    assert "error: cannot read https://nowhere.invalid/model.safetensors: Name or service not known" in unknown.err


def test_a_folder_of_a_web_server_is_not_listed(web: Served, prune: Prune) -> None:
    """The hint names what can be named."""
    ran = prune("inspect", f"{web.url}/")

    assert ran.code == 2
    assert "names no file, and web servers list none" in ran.err
