import sys
from pathlib import Path

import fsspec
import pytest

from tests.workers.web import Answer, serving
from workers.base.file_systems import list_files, local_folder, open_file, size_of, version_of
from workers.base.settings import resolve_path


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


@pytest.mark.parametrize("find", [local_folder, resolve_path, list_files])
def test_the_home_of_nobody_is_no_place(find):
    with pytest.raises(
        FileNotFoundError, match="~nobody-has-this-name/x: there is no such user here"
    ):
        find("~nobody-has-this-name/x")


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


HIDDEN = (
    "._a.csv", ".DS_Store", "_SUCCESS", "_metadata", "_common_metadata", ".part-0.csv.crc",
    ".cache/b.csv", "_temporary/0/c.csv", "_delta_log/0.json",
)  # fmt: skip
SEEN = ["_a.csv", "_pages/a.html", "a.csv", "b/part-0.tmp"]


def test_what_is_hidden_in_a_folder_or_from_a_glob_must_be_named(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in (*HIDDEN, *SEEN):
        (tmp_path / ".folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".folder" / name).write_text("x")
        memory.pipe(f"/hidden/.folder/{name}", b"x")
    for folder in (str(tmp_path / ".folder"), "memory://hidden/.folder"):
        assert [file.partition("/.folder/")[2] for file in list_files(folder)[1]] == SEEN
        names = [file.rpartition("/")[2] for file in list_files(f"{folder}/*")[1]]
        assert names == ["_a.csv", "a.csv"]
        for pattern in ("._a.csv", "._*", "_SUCC*", "_SUCCESS"):
            assert len(list_files(f"{folder}/{pattern}")[1]) == 1


def test_a_folder_of_hidden_files_has_none(tmp_path):
    (tmp_path / "_SUCCESS").write_text("")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        list_files(str(tmp_path))
