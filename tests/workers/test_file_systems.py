import sys
from pathlib import Path

import pytest

from tests.workers.web import Answer, serving
from workers.file_systems import list_files, local_folder, open_file, size_of, version_of


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://u:S3CRET@b/run", "file:///tmp/run"])
def test_a_url_is_no_folder_to_write_to(url):
    with pytest.raises(OSError, match="only a local or mounted path") as refusal:
        local_folder(url)
    assert "S3CRET" not in str(refusal.value)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file is a file"):
        local_folder(str(tmp_path / "file" / "run"))
    with pytest.raises(OSError, match="File name too long"):
        local_folder(str(tmp_path / ("x" * 300)))


def test_a_folder_that_can_be_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_folder("a/b") == Path.cwd() / "a/b"
    assert local_folder(str(tmp_path)) == tmp_path
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("ask", [open_file, size_of, version_of])
def test_a_store_that_refuses_is_an_os_error_without_secrets(ask):
    with serving({"/x.csv": Answer(b"no", status=403)}) as web:
        url = f"http://user:S3CRET@{web.host}/x.csv?token=S3CRET"
        with pytest.raises(OSError, match=r"/x\.csv|403") as error:
            ask(url)
    assert "S3CRET" not in str(error.value)


def test_a_file_system_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OSError, match=r"s3://bucket/x\.warc: Install s3fs"):
        list_files("s3://bucket/x.warc?token=S3CRET")
