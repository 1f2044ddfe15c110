"""A night against the nights before: what is as ever is not said, what is not is."""

from collections import Counter
from datetime import UTC, datetime
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import code_with_health
from pipelines.report import write_report
from pipelines.run.attempts import perform
from pipelines.run.config import Config, HealthSettings
from pipelines.run.directory import Run
from pipelines.run.health import FEWEST_NIGHTS, findings, largest, most_by_chance, rows_of
from pipelines.run.history import Entry, Journal, Start, Work
from pipelines.run.receipts import Outcome, Receipt, Shard, Side
from pipelines.stages import STAGES
from workers.base.exit_codes import ExitCode
from workers.base.tally import Tally
from workers.crawl.host import KNOWN

AS_EVER = HealthSettings()


def night(rows, failed=0, sources=None, stage="images", configuration="a"):
    """A command that worked on a stage: so many rows, of which some failed for a reason."""
    counts = {"in": rows, "kept": rows - failed, "rejected": {}, "failed": {}}
    if failed:
        counts["failed"] = {"timeout": failed}
    work = Work(1, 0, {"images": counts}, 0, 0.0, sources or {})
    start = Start("build_dataset", datetime.now(UTC), "here", 1, 0.0, {}, configuration)
    return Entry("id", start, {stage: work})


def draw_failures(draw, rows, share):
    """A binomial draw by a seed, so that its tails are those of the distribution."""
    random = Random(draw(st.integers(0, 2**32)))
    return sum(random.random() < share for _ in range(rows))


@st.composite
def steady(draw):
    """A history of one share with noise, in nights of any size, quiet ones among them."""
    share = draw(st.floats(0.0, 0.5))
    sizes = draw(st.lists(st.integers(0, 2_000), min_size=1, max_size=20))
    return [night(rows, draw_failures(draw, rows, share)) for rows in sizes]


@settings(deadline=None, max_examples=60)
@given(entries=steady())
def test_a_steady_history_with_noise_never_warns(entries):
    assert findings(entries, AS_EVER) == []


@settings(deadline=None, max_examples=60)
@given(data=st.data(), share=st.floats(0.0, 0.1), jump=st.floats(0.5, 1.0))
def test_a_planted_jump_always_does(data, share, jump):
    before = [night(1_000, draw_failures(data.draw, 1_000, share)) for _ in range(5)]
    bad = night(1_000, round(1_000 * jump))
    (line,) = findings([*before, bad], AS_EVER)
    assert line.startswith(f"images: {round(1_000 * jump):,} of 1,000 images failed for timeout")
    # One bad night is no measure for the next.
    assert len(findings([*before, bad, bad], AS_EVER)) == 1


@pytest.mark.parametrize("nights", range(FEWEST_NIGHTS))
def test_too_few_nights_say_nothing(nights):
    assert not findings([night(1_000, 10)] * nights + [night(1_000, 900)], AS_EVER)
    assert findings([night(1_000, 10)] * FEWEST_NIGHTS + [night(1_000, 900)], AS_EVER)


def test_few_rows_a_small_factor_and_old_nights_are_settings():
    before = [night(1_000, 10)] * 3
    assert not findings([*before, night(1_000, 300)], HealthSettings(factor=40.0))
    assert not findings([*before, night(1_000, 300)], HealthSettings(min_rows=301))
    old = [night(1_000, 400)] * 9
    assert findings([*old, *before, night(1_000, 300)], HealthSettings(nights=3))
    assert not findings([*old, *before, night(1_000, 300)], AS_EVER)


def test_small_nights_say_little_of_a_large_one():
    assert not findings([night(10)] * 3 + [night(1_000, 50)], AS_EVER)
    assert findings([night(10)] * 99 + [night(1_000, 50)], HealthSettings(nights=99))


def test_nights_of_the_same_configuration_are_the_measure_where_there_are_enough():
    other = [night(1_000, 500, configuration="b")] * 9
    few, enough = [night(1_000, 10)] * 2, [night(1_000, 10)] * 3
    assert not findings([*other, *few, night(1_000, 300)], AS_EVER)
    assert findings([*other, *enough, night(1_000, 300)], AS_EVER)


def test_only_the_stages_that_are_asked_for_are_looked_at_and_idle_nights_do_not_count():
    entries = [night(1_000, 10)] * 3 + [night(1_000, 300), night(0), night(9, 9, stage="pairs")]
    assert findings(entries, AS_EVER)
    assert not findings(entries, AS_EVER, ["pairs"])


def asked(kept, failed, stage="pages"):
    return night(kept + failed, failed, {"a.example": (kept, failed), "b": (9, 0)}, stage)


def test_a_source_that_has_dried_up_is_said_and_one_that_never_gave_is_not():
    (line,) = findings([asked(4, 0)] * 3 + [asked(0, 0)], AS_EVER)
    assert "pages: a.example has given nothing (0 rows failed)" in line
    assert "3 nights before that it was asked, 4 rows at the median" in line
    assert findings([asked(4, 0)] * 3 + [asked(0, 1)], AS_EVER)
    assert not findings([asked(4, 0)] * 3 + [asked(1, 0)], AS_EVER)
    assert not findings([asked(4, 0), asked(4, 0), asked(0, 0), asked(0, 0)], AS_EVER)
    assert not findings([asked(0, 4)] * 5, AS_EVER)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), share=st.floats(0.0, 1.0))
def test_a_host_of_images_has_gone_only_beyond_chance(data, share):
    def host(rows):
        failed = draw_failures(data.draw, rows, share)
        return asked(rows - failed, failed, "images")

    nights = [host(data.draw(st.integers(1, 50))) for _ in range(8)]
    assert not any("a.example" in line for line in findings(nights, AS_EVER))
    assert not findings([asked(2, 18, "images")] * 3 + [asked(0, 20, "images")], AS_EVER)
    gone = [asked(80, 20, "images")] * 3 + [asked(0, 20, "images")]
    assert any("a.example has given nothing" in line for line in findings(gone, AS_EVER))


@given(rows=st.integers(1, 10_000), known_rows=st.integers(1, 10_000), data=st.data())
def test_what_chance_makes_is_at_least_the_known_share_and_at_most_all(rows, known_rows, data):
    known = data.draw(st.integers(0, known_rows))
    most = most_by_chance(rows, known, known_rows)
    assert rows * known / known_rows <= most + 1e-9
    assert most_by_chance(rows, known_rows, known_rows) == pytest.approx(rows)


def test_rows_are_counted_by_source_and_the_largest_are_named(tmp_path, monkeypatch):
    urls = ["https://a.example/1", "http://b.example:8080/x/y", "https://a.example/2", None]
    pq.write_table(pa.table({"url": pa.array(urls, pa.string())}), tmp_path / "x.parquet")
    kept = rows_of([tmp_path / "x.parquet"] * 2, "url", r"^https?://(?P<source>[^/?#]+)")
    assert kept == {"a.example": 4, "b.example:8080": 2, "": 2}
    assert largest({"a": 3}, {"a": 1, "b": 0}) == {"a": (3, 1), "b": (0, 0)}
    monkeypatch.setattr("pipelines.run.health.NAMED", 1)
    assert largest({"a": 3}, {"b": 4}) == {"b": (0, 4)}


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("url,caption\n")
    tree = {"name": "test", "queries": "none", "pairs": {"inputs": [str(path)]}}
    return Run.open(Config.model_validate(tree), tmp_path / "run")


def test_a_night_unlike_the_others_is_said_and_is_an_exit_code_by_choice(run, caplog):
    def work(failed):
        journal = Journal(run, "build_dataset")
        journal.begin()
        counts = {"in": 100, "kept": 100 - failed, "rejected": {}, "failed": {"timeout": failed}}
        with journal.work_on("images", lambda _: {}) as outcomes:
            outcomes.append(Outcome("a", Receipt("a", "key", {"images": counts}, (), 0.0)))
        return journal

    for _ in range(3):
        assert code_with_health(run, work(2), ExitCode.COMPLETE) is ExitCode.COMPLETE
    assert "Unlike" not in write_report(run)
    bad = work(90)
    assert code_with_health(run, bad, ExitCode.COMPLETE) is ExitCode.COMPLETE
    line = "images: 90 of 100 images failed for timeout (90.00%); on the 3 nights before, 2.00%"
    assert f"unlike the nights before: {line}" in caplog.text
    assert f"- {line}" in write_report(run)

    health = HealthSettings(exit=True)
    strict = Run(run.config.model_copy(update={"health": health}), run.directory)
    assert code_with_health(strict, bad, ExitCode.COMPLETE) is ExitCode.QUALITY
    assert code_with_health(strict, bad, ExitCode.PARTIAL) is ExitCode.PARTIAL
    idle = Journal(strict, "build_dataset")
    assert code_with_health(strict, idle, ExitCode.COMPLETE) is ExitCode.COMPLETE


def sources_of(run, stage, write, shard="00000", **more):
    """What a stage says of the sources of a shard whose files ``write`` makes."""

    def work(shard, out):
        write(out)
        return {"pages": Tally(rows_in=3, kept=3), **more}

    receipt = perform(work, Shard(shard, "key"), run.directory / stage)
    return STAGES[stage](run).sources([receipt])


def urls(host, number):
    return [f"https://name:secret@{host}/{n}.jpg" for n in range(number)]


def test_the_sources_of_images_are_hosts_that_were_asked_for_enough_of_them(run):
    def write(out):
        (out / Side.TABLES).mkdir()
        pq.write_table(pa.table({"url": urls("a", 15) + urls("b", 19)}), out / "00000.parquet")
        lost = urls("a", 5) + urls("c", 20) + urls("d", 20)
        rejected = [False] * 25 + [True] * 20
        table = pa.table({"url": lost, "rejected": rejected})
        pq.write_table(table, out / Side.TABLES / "00000.parquet")

    assert sources_of(run, "images", write) == {"a": (15, 5), "c": (0, 20)}


def test_the_sources_of_candidates_are_the_inputs_and_those_of_pages_the_hosts(run):
    def write(out):
        places = [f"list.csv@{n}" for n in range(3)]
        pq.write_table(pa.table({"source": places}), out / "00000.parquet")

    (shard,) = STAGES["candidates"](run).plan()
    found = sources_of(run, "candidates", write, shard.name)
    assert found == {"list.csv": (3, 0)}
    assert sources_of(run, "candidates", lambda out: None, shard.name) == {"list.csv": (0, 0)}
    assert sources_of(run, "pages", lambda out: None) == {"00000": (3, 0)}
    # Pages of a host that is away are kept, and it has given none.
    away = Tally(rows_in=3, failed=Counter(timeout=3))
    found = sources_of(run, "pages", lambda out: None, **{KNOWN: away})
    assert found == {"00000": (0, 3)}
