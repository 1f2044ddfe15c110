"""Files of any name: those that look like patterns, and those that are no UTF-8."""

import os
from pathlib import Path

import pytest

from pipelines.embed_job import shard_files
from pipelines.run.config import Config, digest
from pipelines.run.directory import Run
from tests.pipelines.run.test_run import key as key_of_queries
from workers.base.file_systems import find_files, list_files
from workers.base.tally import Tally
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folders and files whose names are patterns, and what these would match."""
    for name in ("shards[1]/a.tar", "shards[1]/b[2].tar", "shards1/c.tar", "shards[1]/b2.tar",
                 "shards[1]/deep/d.tar", "*/e.tar"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = [
    ("shards[1]/a.tar", ["shards[1]/a.tar"]),
    ("shards[1]/b[2].tar", ["shards[1]/b[2].tar"]),
    ("shards[1]/b[12].tar", ["shards[1]/b2.tar"]),
    ("shards[1]/*.tar", ["shards[1]/a.tar", "shards[1]/b2.tar", "shards[1]/b[2].tar"]),
    ("shards[1]/**/d.tar", ["shards[1]/deep/d.tar"]),
    ("shards[12]/*.tar", ["shards1/c.tar"]),
    ("*/e.tar", ["*/e.tar"]),
]


@pytest.mark.parametrize(("pattern", "names"), FILES)
def test_what_is_there_is_itself_before_it_is_a_pattern(folder, pattern, names):
    paths = [folder / name for name in names]
    for one in (pattern, str(folder / pattern)):
        assert find_files([one]) == sorted(paths)
        assert shard_files([one]) == sorted(paths)
        assert list_files(one) == ("", sorted(map(str, paths)))


def test_a_folder_is_itself(folder):
    inside = ["a.tar", "b2.tar", "b[2].tar"]
    assert shard_files(["shards[1]"]) == [folder / "shards[1]" / name for name in inside]
    whole = [str(folder / "shards[1]" / name) for name in (*inside, "deep/d.tar")]
    assert list_files("shards[1]") == (str(folder / "shards[1]"), whole)
    for find in (find_files, lambda patterns: list_files(*patterns)):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            find(["shards[1]/nothing*"])


LATIN_1 = os.fsdecode("caf\u00e9".encode("latin-1"))


@pytest.mark.parametrize("name", ["list.csv", "pages/page.html"])
def test_the_name_of_an_input_may_be_any_bytes(tmp_path, name):
    path = tmp_path / LATIN_1 / name.replace("page.", f"{LATIN_1}.").replace("list", LATIN_1)
    path.parent.mkdir(parents=True)
    image = b"<img src=http://a.example/1.jpg alt=cat>"
    path.write_bytes(image if name.endswith("html") else b"url,text\nhttp://a.example/1.jpg,cat\n")
    folder = path.parent if name.endswith("html") else path
    (source,) = find_inputs([str(folder)], root_url="http://a.example/")
    pages, images = Tally(), Tally()
    (table,) = extract_pairs(source, pages, images)
    (row,) = table.to_pylist()
    assert row["source"] == f"caf\\xe9{path.suffix}@0"
    assert row["url"] == "http://a.example/1.jpg"
    assert row["page_url"] in (None, "http://a.example/caf%E9.html")


def test_a_run_knows_an_input_again_whose_name_is_no_utf8(tmp_path):
    dump = tmp_path / f"{LATIN_1}.xml"
    dump.write_text("<mediawiki/>")
    config = Config.model_validate({"name": "test", "queries": {"dumps": [str(dump)]}})
    run = Run.open(config, tmp_path / "run")
    key = key_of_queries(run)
    run.save()
    again = Run.open(config, tmp_path / "run")
    assert again.is_recorded()
    assert key_of_queries(again) == key
    ((known, content),) = again.record["inputs"]["queries"].items()
    assert Path(known).name == "caf\\xe9.xml"
    assert again.identify_input("queries", dump) == content
    assert digest([LATIN_1]) != digest([LATIN_1 + LATIN_1])
