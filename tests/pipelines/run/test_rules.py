"""Which rules of the web's were applied: what receipts say, and when a new version counts."""

import json
from dataclasses import replace

import pytest

from pipelines.report import write_report
from pipelines.run.attempts import perform
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.receipts import Receipt, Receipts, Shard, Side
from pipelines.run.rules import agents_of_all, joined_rules, rules_line
from pipelines.stages.candidates import Candidates
from pipelines.stages.images import Images
from pipelines.stages.pages import Pages
from workers.base.preferences import RULES
from workers.base.tally import Tally

COUNTS = {"images": {"in": 1, "kept": 1, "rejected": {}, "failed": {}}}
NEWER = {name: f"{version}, revised" for name, version in RULES.items()}
IN_PAGES = {"X-Robots-Tag", "TDMRep", "Content-Usage", "Content-Signal"}


def receipt(shard="a", rules=(), agents=()):
    return Receipt(shard, "key", COUNTS, (), 0.0, rules=dict(rules), agents=tuple(agents))


def one_row(_shard, out):
    (out / "a.txt").write_text("a")
    return {"images": Tally(rows_in=1, kept=1)}


@pytest.fixture
def opened(tmp_path):
    def open_run(**sections):
        tree = {"name": "test", "queries": "none", **sections}
        return Run(Config.model_validate(tree), tmp_path / "run")

    return open_run


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "a.html"
    path.write_text("<img src=a.png alt='a red cat'>")
    return str(path)


@pytest.fixture
def pair_list(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("url,caption\nhttp://a.example/a.png,a red cat\n")
    return str(path)


def test_a_receipt_has_the_rules_of_its_shard(tmp_path):
    shard = Shard("a", "key", rules={"robots.txt": "RFC 9309"}, agents=("birds", "ccbot"))
    made = perform(one_row, shard, tmp_path / "images")
    assert (made.rules, made.agents) == ({"robots.txt": "RFC 9309"}, ("birds", "ccbot"))
    assert Receipts(tmp_path / "images").get("a") == made


def test_a_receipt_that_is_older_than_such_entries_is_read(tmp_path):
    receipts = Receipts(tmp_path / "images")
    perform(one_row, Shard("a", "key", rules=RULES, agents=("birds",)), receipts.folder)
    path = receipts.record(Side.RECEIPTS, "a")
    content = json.loads(path.read_text())
    del content["rules"], content["agents"]
    path.write_text(json.dumps(content))
    old = receipts.get("a")
    assert old is not None
    assert (old.rules, old.agents) == ({}, ())
    assert rules_line({"images": [old]}) == ""


@pytest.mark.parametrize(
    ("robots", "names"), [(True, {*RULES}), (False, IN_PAGES)], ids=["robots", "no robots"]
)
def test_rules_of_hosts_are_applied_to_images_where_hosts_are_asked_for_them(opened, robots, names):
    images = {"robots": robots, "user_agent": "birds", "obey_agents": ["CCBot"]}
    shard = Images(opened(images=images))._shard("a-1")
    assert shard.rules == {name: RULES[name] for name in names}
    assert shard.agents == ("birds", "ccbot")


def test_a_crawl_applies_what_robots_txt_says_and_the_directives_of_pages(opened):
    pages = {"seeds": ["http://a.example/"], "user_agent": "birds", "obey_agents": ["CCBot"]}
    (shard,) = Pages(opened(pages=pages)).plan()
    assert {*shard.rules} == {"robots.txt", "X-Robots-Tag", "Content-Usage", "Content-Signal"}
    assert shard.agents == ("birds", "ccbot")


def test_pairs_of_pages_are_judged_and_those_of_lists_alone_are_not(opened, page, pair_list):
    (of_both,) = Candidates(opened(pairs={"inputs": [page, pair_list]})).plan()
    assert {*of_both.rules} == IN_PAGES
    assert of_both.agents == ("clip-from-scratch",)
    (of_list,) = Candidates(opened(pairs={"inputs": [pair_list]})).plan()
    assert (of_list.rules, of_list.agents) == ({}, ())
    assert Candidates(opened(pages={"seeds": ["http://a.example/"]})).rules == of_both.rules


def test_a_new_version_judges_pages_again_and_fetches_nothing(opened, page, pair_list, monkeypatch):
    run = opened(pairs={"inputs": [page]}, pages={"seeds": ["http://a.example/"]})
    lists = opened(pairs={"inputs": [pair_list]})

    def keys():
        shards = [*Candidates(run).plan(), *Candidates(lists).plan(), *Pages(run).plan()]
        return [shard.key for shard in (*shards, Images(run)._shard("a-1"))]

    before = keys()
    for stage in ("candidates", "pages", "images"):
        monkeypatch.setattr(f"pipelines.stages.{stage}.RULES", NEWER)
    after = keys()
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_shards_that_become_one_keep_each_version():
    old, new, unknown = (receipt(rules=r) for r in ({"A": "1", "B": "1"}, {"A": "2"}, {}))
    assert joined_rules([old, old]) == {"A": "1", "B": "1"}
    joined = joined_rules([new, old])
    assert joined == {"A": "1; 2", "B": "1; not said of some"}
    assert joined_rules([receipt(rules=joined), new]) == joined
    assert joined_rules([old, unknown])["A"] == "1; not said of some"
    assert joined_rules([unknown]) == {}


def test_whom_all_have_obeyed_is_obeyed_by_what_they_become():
    both, ours = receipt(agents=["birds", "ccbot"]), receipt(agents=["birds"])
    assert agents_of_all([both, both]) == ("birds", "ccbot")
    assert agents_of_all([both, ours]) == agents_of_all([ours, both]) == ("birds",)
    assert agents_of_all([both, receipt()]) == ()


def test_the_report_says_in_one_line_what_was_applied(opened):
    one = receipt(rules={"A": "1"}, agents=["birds"])
    two = replace(one, rules={"A": "2"})
    assert rules_line({"queries": [receipt()], "pages": [one], "images": [one, two]}) == (
        "Rules that were applied, by stage: A (1): pages, images (1 of 2 shards); what is said to "
        "birds: pages, images; A (2): images (1 of 2 shards)."
    )
    run = opened(images={"robots": False})
    perform(one_row, Images(run)._shard("a-1"), run.receipts("images").folder)
    (line,) = [line for line in write_report(run).splitlines() if line.startswith("Rules that")]
    assert "; TDMRep (W3C community group's final report of 2024-05-10): images;" in line
    assert "robots.txt" not in line
