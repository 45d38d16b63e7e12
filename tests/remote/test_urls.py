"""The names of copies, and the commands that download and upload."""

from __future__ import annotations

import pytest

from prunecli.remote.urls import download_line, is_url, local_name, public, unreadable_url, upload_line


@pytest.mark.parametrize(
    ("url", "name", "line"),
    [
        ("hf://org/model", "model", "hf download org/model --local-dir model"),
        ("hf://org/model@v1", "model", "hf download org/model --revision v1 --local-dir model"),
        (
            "hf://org/model@refs/pr/1/a.bin",
            "a.bin",
            "hf download org/model a.bin --revision refs/pr/1 --local-dir model",
        ),
        ("hf://org/model/unet", "unet", "hf download org/model --include 'unet/*' --local-dir model"),
        ("s3://bucket/team/model", "model", "aws s3 cp --recursive s3://bucket/team/model model"),
        ("s3://bucket/m.bin", "m.bin", "aws s3 cp s3://bucket/m.bin m.bin"),
        ("https://host:1/", "model", "curl -fLO https://host:1/"),
        ("https://host/x/m.bin", "m.bin", "curl -fLO https://host/x/m.bin"),
    ],
)
def test_downloads(url: str, name: str, line: str) -> None:
    """The command that a hint prints fetches what the URL names."""
    assert (name, line) == (local_name(url), download_line(url))


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("hf:/me/m", "hf upload me/m out"),
        ("hf://me/m/x/y.bin", "hf upload me/m out x/y.bin"),
        ("s3://b/m", "aws s3 cp --recursive out s3://b/m"),
        ("gs://b/m", ""),
        ("models/out", None),
        ("a:b/c", None),
        ("C:/models", None),
    ],
)
def test_uploads(target: str, line: str | None) -> None:
    """Paths are no URLs."""
    assert line == upload_line(target, "out")


def test_what_is_a_url() -> None:
    """A path with a colon is none."""
    assert [is_url(t) for t in ("hf://a", "HTTPS://h/a", "hf:/a", "gs://a")] == [True, True, False, False]
    assert [unreadable_url(t) for t in ("gs://a", "s3://a", "x/y")] == ["gs", None, None]


def test_secrets_are_cut() -> None:
    """The user, the query and the fragment are not shown."""
    assert public("https://u:p@h:1/a/b?c#d") == "https://h:1/a/b"
    assert public("some/path?x") == "some/path?x"


@pytest.mark.parametrize(
    ("page", "url"),
    [
        ("https://huggingface.co/org/model", "hf://org/model"),
        ("https://huggingface.co/org/model/", "hf://org/model"),
        ("https://huggingface.co/org/model/tree/v1", "hf://org/model@v1"),
        ("https://huggingface.co/org/model/blob/main/a%20b.bin?x=1", "hf://org/model/a b.bin"),
        ("https://hf.co/org/model/resolve/refs%2Fpr%2F1/a.bin", "hf://org/model@refs%2Fpr%2F1/a.bin"),
        ("https://huggingface.co/datasets/org/data", "https://huggingface.co/datasets/org/data"),
        ("https://huggingface.co.evil.com/org/model", "https://huggingface.co.evil.com/org/model"),
    ],
)
def test_pages_of_the_hub(page: str, url: str) -> None:
    """The address of a page in the browser names the model."""
    assert url == public(page)
