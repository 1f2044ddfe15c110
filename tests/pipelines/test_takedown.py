"""A takedown: nothing of what is named is left in a run, and nothing else is made again."""

import hashlib
import json
import shutil

import pyarrow.parquet as pq
import pytest

from pipelines import takedown
from pipelines.run.checks import Checker
from pipelines.run.opt_outs import opt_out_files
from pipelines.run.receipts import Receipts, Side
from pipelines.run.runner import Plan
from pipelines.stages import STAGES
from tests.object_store import fetched
from tests.pipelines.synthetic_run import (
    BIRDS,
    FISH,
    PAGES,
    ROWS,
    everything,
    make_run,
    rows,
    same_but_for_records,
    where_is,
)
from tests.shards import jpeg
from workers.base.bucket import Bucket
from workers.base.opt_outs import Kind, normal_entry, read_tombstones
from workers.extract.warc_records import Damage, read_records

NOTHING: dict[str, list[str]] = {name: [] for name in takedown.KEPT}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("takedown") / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished.directory, tmp_path / "run")
    return type(finished)(finished.config, tmp_path / "run")


def take_down(run, *named, discard=False):
    entries = [(kind, normal_entry(kind, text)) for kind, text in named]
    with run.lock():
        return takedown.remove(
            run, takedown.with_all_of_it(run.directory, entries), discard=discard
        )


def captions(directory, stage):
    outputs = [path for path in Receipts(directory / stage).outputs() if path.parent.name == stage]
    return sorted(c for path in outputs for c in pq.read_table(path)["caption"].to_pylist())


def todo(run):
    return {name: [s.name for s in Plan.of(STAGES[name](run)).todo] for name in takedown.KEPT}


def test_the_run_of_these_tests_is_whole(run):
    assert todo(run) == NOTHING
    assert where_is(run.directory, b"birds.example")
    assert where_is(run.directory, jpeg((10, 20, 30)))
    assert problems(run) == []


def problems(run):
    """What verification finds."""
    checker = Checker(run.directory)
    return [
        (stage, problem)
        for stage in (
            "pages",
            "candidates",
            "pairs",
            "requests",
            "images",
            "embeddings",
            "labels",
            "dataset",
        )
        for receipt in Receipts(run.directory / stage).all()
        for problem in checker.shard(stage, receipt)
    ]


def test_nothing_of_an_image_is_left_under_any_url(run):
    removed = take_down(run, (Kind.URL, "https://birds.example/heron.jpg#top"))
    gone = (b"birds.example/heron.jpg", b"copy-of-heron", jpeg((10, 20, 30)), b"a grey heron")
    assert where_is(run.directory, *gone) == []
    left = sorted(
        {caption for _, _, caption, _ in ROWS} - {"a heron", "a grey heron", "not a fish"}
    )
    assert captions(run.directory, "pairs") == left
    assert captions(run.directory, "requests") == left
    assert captions(run.directory, "dataset") == [
        c for c in left if "gone" not in c and "lost" not in c
    ]
    stages = ("pairs", "requests", "images", "embeddings", "labels", "selection", "dataset")
    assert {stage: removed[stage] for stage in stages} == dict.fromkeys(stages, 3)


def test_nothing_of_an_image_is_left_that_another_url_redirects_to(run):
    removed = take_down(run, (Kind.URL, "http://store.example/eel-2.jpg"))
    assert where_is(run.directory, b"eel-2", jpeg((7, 7, 7))) == []
    assert where_is(run.directory, b"my-birds.example.org/eel.jpg") == []
    stages = ("pairs", "images", "embeddings", "labels", "selection", "dataset")
    assert {stage: removed[stage] for stage in stages} == dict.fromkeys(stages, 1)


def test_nothing_of_a_domain_is_left(run):
    take_down(run, (Kind.DOMAIN, "birds.example"))
    assert where_is(run.directory, b"//birds.example", b"www.birds.example") == []
    found = where_is(run.directory, b"birds.example")
    assert {name.split("/")[0] for name in found} <= {
        *(
            "pages",
            "candidates",
            "pairs",
            "requests",
            "images",
            "_tables",
            "dataset",
            "truth.parquet",
        )
    }
    # Another domain ends in the same letters, and begins with it.
    assert captions(run.directory, "pairs") == ["a carp", "a lost fish", "a tench", "an eel"]
    assert (
        b"my-birds.example.org birds.example.org"
        in (run.directory / "pages/fish.example.warc").read_bytes()
    )


def test_what_stays_is_as_it_was(run):
    before = {(n, c) for n, c in everything(run.directory / "images")}
    take_down(run, (Kind.URL, f"{FISH}/tench.jpg"))
    after = {(n, c) for n, c in everything(run.directory / "images")}
    assert len(after - before) == 1
    assert problems(run) == []
    for receipt in Receipts(run.directory / "images").all():
        counts = receipt.rows["images"]
        assert counts["in"] == counts["kept"] + sum(counts["failed"].values())


@pytest.mark.parametrize(
    "named",
    [
        (Kind.URL, f"{FISH}/tench.jpg"),
        (Kind.URL, f"{BIRDS}/gone.jpg"),
        (Kind.DOMAIN, "birds.example"),
        (Kind.SHA256, hashlib.sha256(jpeg((10, 20, 30))).hexdigest()),
        (Kind.PAIR_ID, next(rows())["pair_id"]),
        (Kind.URL, f"{FISH}/b"),
    ],
)
def test_nothing_that_stays_is_made_again(run, named):
    take_down(run, named)
    assert todo(run) == NOTHING
    assert problems(run) == []
    assert [s.name for s in Plan.of(STAGES["selection"](run)).todo] == ["all"]


def command(run, monkeypatch, *arguments):
    monkeypatch.setattr(takedown, "open_run", lambda _: run)
    return takedown.main(arguments)


def test_the_command_says_what_it_has_done_and_cannot_do(run, monkeypatch, capsys):
    code = command(run, monkeypatch, "--domain", "birds.example", "--dry-run")
    said = capsys.readouterr().out
    assert (code, where_is(run.directory, b"//birds.example") != []) == (0, True)
    assert "| pairs | 6 |" in said
    assert "nothing was changed" in said
    assert not opt_out_files(run).taken_down.exists()
    scratch = run.directory / "_work/images/killed-x/a.jpg"
    scratch.parent.mkdir(parents=True)
    scratch.write_bytes(jpeg((10, 20, 30)))
    code = command(run, monkeypatch, "--domain", "birds.example")
    assert where_is(run.directory, jpeg((10, 20, 30))) == []
    again = capsys.readouterr().out
    assert (code, where_is(run.directory, b"//birds.example")) == (0, [])
    assert "| pairs | 6 |" in again
    assert "pages.seeds.0 is taken down" in again
    assert "out of reach: copies of the run" in again
    assert command(run, monkeypatch, "--domain", "birds.example") == 0
    assert "nothing of it is in the run; a tombstone stays" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name what is to go"),
        (["--url", "birds.example"], "--url: 'birds.example' is not an http or https URL"),
        (["--domain", "com"], "--domain: 'com' is everybody's"),
        (["--pair-id", "7"], "--pair-id: '7' is not the 32 hexadecimal digits"),
    ],
)
def test_what_names_nothing_is_refused(run, monkeypatch, capsys, arguments, says):
    assert command(run, monkeypatch, *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_tombstone_stays_and_tells_nobody_what_it_is_of(run):
    take_down(run, (Kind.URL, f"{FISH}/tench.jpg"), (Kind.DOMAIN, "birds.example"))
    path = opt_out_files(run).taken_down
    assert all(len(line.split(" ")) == 3 for line in path.read_text().splitlines())
    gone = read_tombstones(path)
    assert gone.has_url("https://fish.example/tench.jpg?utm_source=x")
    assert gone.has_url("http://a.birds.example/")
    assert gone.has(Kind.SHA256, hashlib.sha256(jpeg((60, 60, 60))).hexdigest())
    assert not gone.has_url(f"{FISH}/carp.jpg")
    (left,) = STAGES["pages"](run).plan()
    assert left.name == "fish.example"


def test_pages_say_nothing_of_what_goes_and_stay_where_they_were(run):
    before = (run.directory / "pages/fish.example.warc").read_bytes()
    take_down(run, (Kind.DOMAIN, "birds.example"))
    path = run.directory / "pages/fish.example.warc"
    assert not (run.directory / "pages/birds.example.warc").exists()
    assert Receipts(run.directory / "pages").get("birds.example") is None
    assert len(path.read_bytes()) == len(before)
    with path.open("rb") as file:
        records = list(read_records(file))
    assert not [record for record in records if isinstance(record, Damage)]
    text = PAGES[f"{FISH}/b"].replace("WWW.birds.example:80/a.jpg?x=1&amp;y=2", "." * 38)
    text = text.replace("birds.example/gone.jpg", "." * 22)
    assert records[2].block.endswith(text.encode())  # type: ignore[union-attr]


def test_a_pair_says_where_its_page_is_now(run):
    take_down(run, (Kind.URL, f"{FISH}/"))
    (path,) = [p for p in run.outputs("pages") if p.stem == "fish.example"]
    with path.open("rb") as file:
        places = {record.url: record.offset for record in read_records(file)}
    found = [row for p in run.outputs("pairs") for row in pq.read_table(p).to_pylist()]
    mine = [row["source"] for row in found if row["page_url"] == f"{FISH}/b"]
    assert mine == [f"fish.example.warc@{places[f'{FISH}/b']}"] * 3


def test_samples_show_nothing_of_it(run):
    path = Side.REJECTED.of(run.directory / "images")
    before = [json.loads(file.read_bytes()) for file in path.glob("*.json")]
    assert any(f"{BIRDS}/gone.jpg" in str(sample) for sample in before)
    take_down(run, (Kind.URL, f"{BIRDS}/gone.jpg"))
    after = [json.loads(file.read_bytes()) for file in path.glob("*.json")]
    assert not any("gone.jpg" in str(sample) for sample in after)
    assert any(f"{FISH}/lost.jpg" in str(sample) for sample in after)


def test_in_a_bucket_nothing_of_it_is_left_and_the_rest_is_as_in_a_folder(
    run, bucket_of, monkeypatch, tmp_path, capsys
):
    there, url = bucket_of(run)
    named = ("--domain", "birds.example")
    before = shards_of(url)
    assert command(there, monkeypatch, *named, "--dry-run") == 0
    assert shards_of(url) == before
    assert command(there, monkeypatch, *named) == 0
    said = capsys.readouterr()
    assert f"takedown of {url}" in said.out
    assert "out of reach: older versions of objects, and parts of uploads" in said.out
    assert command(run, monkeypatch, *named) == 0
    after = fetched(url, tmp_path / "after")
    assert where_is(after, b"//birds.example", b"www.birds.example", b"birds.example/heron") == []
    assert same_but_for_records(after, run.directory)
    assert problems(type(run)(run.config, after)) == []


def shards_of(url):
    """The versions of all objects but the lease and what tells of commands."""
    return {name: stat for name, stat in Bucket(url).list().items() if name.split("/")[0] in STAGES}
