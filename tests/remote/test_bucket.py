"""Models in buckets, against moto's server of S3."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from support.remote_models import contents, save_shards

import prunecli
from prunecli.strategies.thresholds import Threshold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.command_line import Prune


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a model of two shards into the bucket `models`, and return its local copy."""
    pytest.importorskip("s3fs", reason="it needs the group test, or prunecli[remote]")
    moto = pytest.importorskip("moto.server", reason="it needs the group test")
    boto = pytest.importorskip("boto3", reason="it needs the group test")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "none",
        "AWS_SHARED_CREDENTIALS_FILE": "none",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = save_shards(tmp_path / "model")
    client = boto.client("s3")
    client.create_bucket(Bucket="models")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "models", f"team/model/{path.relative_to(folder).as_posix()}")
    yield folder
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_bucket(bucket: Path, prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is inspected and pruned; what is not there or not allowed is one sentence without a signature."""
    url = "s3://models/team/model"
    assert prune("inspect", url).code == 0
    assert prunecli.diff(f"{url}/model-00001-of-00002.safetensors", bucket / "model-00001-of-00002.safetensors").same

    prunecli.prune(url, Threshold(0.5), reports=())
    (bucket / "pytorch_model.bin").unlink()
    prunecli.prune(bucket, Threshold(0.5), output=tmp_path / "local", reports=())
    assert contents(tmp_path / "local") == contents(tmp_path / "work/model.pruned")

    assert "there is no s3://models/team/none" in prune("inspect", "s3://models/team/none").err
    assert "there is no s3://other/model" in prune("inspect", "s3://other/model").err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused = prune("inspect", url)
    assert refused.code == 2
    assert "does not give s3://models/team/model/" in refused.err
    assert "Signature" not in refused.err


def test_without_the_library(prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence and the line that installs it."""
    monkeypatch.setitem(sys.modules, "s3fs", None)

    ran = prune("inspect", "s3://bucket/model")

    assert (ran.code, ran.err.splitlines()[-1]) == (2, "hint: pip install 'prunecli[remote]'")
    assert "needs fsspec and s3fs, which are not installed" in ran.err
