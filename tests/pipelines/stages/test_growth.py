"""What the nights of a run ask of the web: everything once, and again what may have come back."""

import shutil

import pyarrow.parquet as pq
import pytest

from pipelines.run.checks import Checker
from pipelines.run.config import ConfigError
from pipelines.run.receipts import Receipts
from pipelines.run.runner import Plan, check, is_complete, run_stages
from pipelines.stages import STAGES
from tests.pipelines.stages.growing import GivenPairs, Nights, image
from tests.workers.web import Answer, serving
from workers.base.contracts import REQUESTS

PATHS = [f"/{number}.png" for number in range(24)]
BUSY, GONE, NOTHING = Answer(status=503), Answer(status=404), Answer(b"no picture")


@pytest.fixture
def web():
    with serving({path: image(number) for number, path in enumerate(PATHS)}) as web:
        yield web


@pytest.fixture
def nights(tmp_path, web, monkeypatch):
    return Nights(tmp_path / "run", web, monkeypatch)


def test_only_what_is_new_is_asked_for(nights):
    assert nights(PATHS[:10]) == sorted(PATHS[:10])
    assert nights(PATHS[:10]) == []
    assert nights(PATHS[:15]) == sorted(PATHS[10:15])
    assert nights(PATHS[3:18]) == sorted(PATHS[15:18]), "0 to 2 are wanted no more"
    assert nights(PATHS) == sorted(PATHS[18:]), "and have come back for nothing"
    assert nights.code == 0
    assert nights.images() == dict.fromkeys(PATHS, 1)
    assert nights.counts()["in"] == nights.counts()["kept"] == len(PATHS)


def rows_of(nights, stage, path):
    """The rows of a stage that are of a path, without what tells one list from another."""
    url = nights.web.url(path)
    files = sorted((nights.directory / stage).glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist() if row["url"] == url]
    return sorted(rows, key=lambda row: (row["caption"], row.get("tries", 0)))


def test_a_new_caption_of_an_image_that_is_there_asks_for_nothing(nights, web):
    web.answers["/2.png"] = [BUSY, image(2)]
    nights(PATHS)
    more = {"/0.png": ["another", "a third"], "/1.png": ["more"], "/2.png": ["of what is missing"]}
    assert nights(PATHS, captions=more) == ["/2.png"], "its image is not there"
    assert nights(PATHS, captions=more, after=10) == [], "the old caption is tried again"
    assert nights.code == 0
    assert nights.images() == {**dict.fromkeys(PATHS, 1), "/0.png": 3, "/1.png": 2, "/2.png": 2}
    answers = rows_of(nights, "_tables/images", "/2.png")
    assert [(row["caption"], row["tries"], row["attempts"], row["reason"]) for row in answers] == [
        ("of what is missing", 0, 1, None),
        ("what is at 2.png", 0, 1, "http_503"),
        ("what is at 2.png", 1, 0, None),
    ]
    first, second, third = rows_of(nights, "images", "/0.png")
    assert [row["caption"] for row in (first, second, third)] == [
        "a third",
        "another",
        "what is at 0.png",
    ]
    own = ("pair_id", "caption", "key")
    assert len({row[name] for row in (first, second, third) for name in own}) == 9
    for row in (first, second):
        assert {name: row[name] for name in row if name not in own} == {
            name: third[name] for name in third if name not in own
        }
    checker = Checker(nights.directory)
    for stage in ("requests", "images"):
        for receipt in Receipts(nights.directory / stage).all():
            assert list(checker.shard(stage, receipt)) == []


def test_an_image_that_is_damaged_is_given_to_no_other_caption(nights):
    nights(PATHS)
    (path,) = nights.run().outputs("images")
    (jpg, *_) = (row["jpg"] for row in rows_of(nights, "images", "/0.png"))
    content = bytearray(path.read_bytes())
    content[content.index(jpg) + len(jpg) // 2] ^= 1
    path.write_bytes(content)
    assert nights(PATHS, captions={"/0.png": ["another"]}) == []
    assert nights.code == 3
    assert nights(PATHS, captions={"/0.png": ["another"]}) == sorted([*PATHS, "/0.png"]), (
        "both lists"
    )
    assert nights.code == 0
    assert nights(PATHS, captions={"/0.png": ["another"]}) == []
    first, second = rows_of(nights, "images", "/0.png")
    assert first["jpg"] == second["jpg"] == jpg


def test_a_finished_night_has_nothing_to_do(nights):
    nights(PATHS)
    run = nights.run()
    assert not run_stages(run, nights.stages).worked
    assert [receipt.shard for receipt in run.receipts("requests").all()] == ["000000"]


def test_lists_are_named_by_what_is_on_them_and_of_even_size(nights, tmp_path):
    nights(PATHS, images={"pairs_per_shard": 5})
    sizes = [pq.read_metadata(path).num_rows for path in nights.run().outputs("requests")]
    assert sum(sizes) == len(PATHS)
    assert all(3 <= size <= 5 for size in sizes), sizes
    assert all(pq.read_schema(path).equals(REQUESTS) for path in nights.run().outputs("requests"))
    again = Nights(tmp_path / "again", nights.web, nights.monkeypatch)
    again(PATHS[::-1], images={"pairs_per_shard": 5})
    for stage in ("requests", "images"):
        first, second = (some.run().outputs(stage) for some in (nights, again))
        assert [path.name for path in first] == [path.name for path in second]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_failure_that_may_pass_is_tried_again_after_its_pauses(nights, web):
    web.answers |= {"/0.png": BUSY, "/1.png": [BUSY, BUSY, image(1)], "/2.png": GONE}
    web.answers |= {"/3.png": [BUSY, NOTHING]}
    nights(PATHS)
    assert nights.code == 0
    assert nights.counts()["failed"] == {"http_404": 1, "http_503": 3}
    assert nights(PATHS, after=4) == [], "six hours have not passed"
    assert nights(PATHS, after=4) == ["/0.png", "/1.png", "/3.png"]
    assert nights.counts()["failed"] == {"http_404": 1, "http_503": 2, "not_an_image": 1}
    assert nights(PATHS, after=20) == [], "a day has not passed since"
    assert nights(PATHS, after=5) == ["/0.png", "/1.png"]
    assert nights(PATHS, after=1000) == [], "there are two pauses"
    counts = nights.counts()
    assert counts == {
        "in": 24,
        "kept": 21,
        "rejected": {},
        "failed": {"http_404": 1, "http_503": 1, "not_an_image": 1},
    }
    assert nights.images().total() == 21


def test_a_pair_that_is_wanted_no_more_is_not_tried_again_until_it_comes_back(nights, web):
    web.answers["/0.png"] = [BUSY, image(0)]
    nights(PATHS)
    assert nights(PATHS[1:], after=10) == []
    assert nights(PATHS[1:], after=10) == []
    assert nights(PATHS) == ["/0.png"]
    assert nights.images() == dict.fromkeys(PATHS, 1)


def test_reasons_that_are_named_are_tried_again_at_once(nights, web):
    web.answers |= {"/0.png": [GONE, image(0)], "/1.png": [BUSY, image(1)], "/2.png": NOTHING}
    nights(PATHS)
    assert nights(PATHS, retry=["http_404"]) == ["/0.png"]
    assert nights(PATHS, retry=["http_503", "not_an_image"]) == ["/1.png", "/2.png"]
    assert nights.counts()["failed"] == {"not_an_image": 1}
    assert nights(PATHS) == []
    assert is_complete(nights.run(retry=["not_an_image"]), "images", {}), "as other commands ask"


def test_an_outage_is_tried_again_at_once_and_counts_as_no_try(nights, web, caplog):
    away = {path: [BUSY, BUSY, BUSY, image(number)] for number, path in enumerate(PATHS[:12])}
    web.answers |= away | {"/20.png": [BUSY] * 4 + [image(20)]}
    assert nights(PATHS) == sorted(PATHS)
    assert nights.code == 3
    assert "images: 13 of 24 images in 1 shards could not be reached (http_503 13)" in caplog.text
    assert not is_complete(nights.run(), "images", {}), "what comes after must not go on from here"
    for _ in range(2):
        assert nights(PATHS, after=0.1) == sorted([*PATHS[:12], "/20.png"])
        assert nights.code == 3
    assert nights(PATHS, after=0.1) == sorted([*PATHS[:12], "/20.png"])
    assert nights.code == 0
    assert nights.counts()["failed"] == {"http_503": 1}
    assert nights(PATHS, after=7) == ["/20.png"], "the first of its pauses is over"
    assert nights.counts()["kept"] == 24


def test_more_new_images_come_in_while_an_outage_lasts(nights, web):
    web.answers |= dict.fromkeys(PATHS[:8], BUSY)
    nights(PATHS[:10])
    assert nights.code == 3
    assert nights(PATHS) == sorted([*PATHS[:8], *PATHS[10:]])
    assert nights.code == 3


def test_a_few_failures_of_a_few_are_no_outage(nights, web):
    web.answers |= dict.fromkeys(PATHS[:3], BUSY)
    nights(PATHS[:4])
    assert nights.code == 0


def test_what_stays_away_is_no_outage_of_the_list_that_tries_it_again(nights, web):
    web.answers |= dict.fromkeys(PATHS[:6], BUSY)
    nights(PATHS)
    assert nights.code == 0
    assert nights(PATHS, after=10) == sorted(PATHS[:6])
    assert nights.code == 0


def test_a_missed_gate_asks_again_for_what_may_have_come_back(nights, web):
    web.answers |= {path: [BUSY, BUSY, image(0)] for path in PATHS[:4]} | {"/9.png": GONE}
    gate = {"gates": {"images": {"max_failed": 0.1}}}
    nights(PATHS, **gate)
    assert nights.code == 4
    assert nights(PATHS, **gate) == sorted(PATHS[:4])
    assert nights.code == 4
    assert nights(PATHS, **gate) == sorted(PATHS[:4])
    assert nights.code == 0
    assert nights(PATHS, **gate) == []


def test_other_settings_of_images_are_refused_until_they_are_meant(nights):
    nights(PATHS)
    with pytest.raises(ConfigError, match="1 shards of images .* --refetch"):
        check(nights.run(images={"jpeg_quality": 50}), nights.stages)
    assert nights(PATHS, images={"timeout": 3.0, "user_agent": "other"}) == []
    check(nights.run(refetch=True, images={"jpeg_quality": 50}), nights.stages)
    assert nights(PATHS, refetch=True, images={"jpeg_quality": 50}) == sorted(PATHS)
    assert nights.images() == dict.fromkeys(PATHS, 1)
    assert nights(PATHS, images={"jpeg_quality": 50}) == []


def test_a_lost_list_costs_nothing_that_is_there(nights):
    nights(PATHS[:8])
    nights(PATHS[:16])
    run = nights.run()
    for path in run.outputs("requests"):
        path.unlink()
    assert nights(PATHS) == sorted(PATHS[16:])
    assert nights.images() == dict.fromkeys(PATHS, 1)


def test_lists_that_are_all_lost_cost_nothing_either(nights):
    nights(PATHS)
    shutil.rmtree(nights.directory / "requests")
    shutil.rmtree(nights.directory / "_receipts/requests")
    assert nights(PATHS) == []
    assert nights.code == 0


def test_a_lost_shard_of_images_is_fetched_again_and_no_other(nights):
    for number in (8, 16, 24):
        nights(PATHS[:number])
    run = nights.run()
    lost = run.outputs("images")[1]
    urls = pq.read_table(lost)["url"].to_pylist()
    lost.unlink()
    assert nights(PATHS) == sorted(url.removeprefix(nights.web.url("")) for url in urls)
    lists = [path for path in run.outputs("requests") if path.name == lost.name]
    for path in (lost, *lists):
        path.unlink()
    assert nights(PATHS) == sorted(url.removeprefix(nights.web.url("")) for url in urls)
    assert nights.images() == dict.fromkeys(PATHS, 1)


def test_work_that_is_killed_between_two_lists_goes_on_with_the_other(nights, monkeypatch):
    from pipelines.run import attempts

    perform, done = attempts.perform, []

    def killed_at_the_third(work, shard, folder):
        if folder.name == "images":
            done.append(shard.name)
            if len(done) == 3:
                raise KeyboardInterrupt
        return perform(work, shard, folder)

    with monkeypatch.context() as killing:
        killing.setattr(attempts, "perform", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            nights(PATHS, images={"pairs_per_shard": 5})
    asked = sorted(nights.web.asked)
    rest = nights(PATHS, images={"pairs_per_shard": 5})
    assert sorted([*asked, *rest]) == sorted(PATHS)


def test_what_the_files_hold_agrees_with_the_receipts(nights, web):
    web.answers |= {"/0.png": BUSY, "/1.png": [BUSY, image(1)], "/2.png": GONE}
    nights(PATHS[:10])
    nights(PATHS, after=10)
    checker = Checker(nights.directory)
    for stage in ("requests", "images"):
        for receipt in Receipts(nights.directory / stage).all():
            assert list(checker.shard(stage, receipt)) == []


def test_a_plan_is_a_plan(nights):
    """To look at it changes nothing, and says what would be asked for."""
    nights(PATHS[:8])
    nights.monkeypatch.setattr(GivenPairs, "urls", [])
    run = nights.run()
    for name in ("requests", "images"):
        plan = Plan.of(STAGES[name](run))
        assert not plan.todo
        assert not plan.again
