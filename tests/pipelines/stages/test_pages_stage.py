"""Seeds to shards: one for each host, however it is written."""

from dataclasses import replace

import pytest

from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.runner import run_stages
from pipelines.stages.pages import Pages
from tests.workers.web import page, serving
from workers.base.exit_codes import ExitCode


def stage(directory, seeds):
    config = {"name": "test", "queries": {}, "pages": {"seeds": seeds}}
    return Pages(Run.open(Config.model_validate(config), directory))


def test_one_host_is_one_shard_however_it_is_written(tmp_path):
    seeds = [
        *("http://Example.com", "https://example.com:443/a", "http://example.com:80/"),
        *(
            "https://example.com./a",
            "http://b\u00fccher.example/",
            "http://xn--bcher-kva.example/x",
        ),
        *("http://example.com:8080/", "http://[::1]:80/"),
    ]
    shards = stage(tmp_path, seeds).plan()
    assert {shard.name: (shard.values["host"], *shard.values["seeds"]) for shard in shards} == {
        "example.com": ("example.com", "http://example.com/", "https://example.com/a"),
        "example.com_8080": ("example.com:8080", "http://example.com:8080/"),
        "[__1]": ("[::1]", "http://[::1]/"),
        "xn--bcher-kva.example": (
            *("xn--bcher-kva.example", "http://xn--bcher-kva.example/"),
            "http://xn--bcher-kva.example/x",
        ),
    }
    again = stage(tmp_path, [*reversed(seeds), "http://another.example/"]).plan()
    assert {shard.key for shard in shards} < {shard.key for shard in again}


@pytest.mark.parametrize(
    "seed", ["https://u:hush@example.com/", "u:hush@example.com", "http://u:hush@", "//u:hush@a.b/"]
)
def test_credentials_in_a_seed_are_refused_and_not_repeated(tmp_path, seed):
    with pytest.raises(ConfigError, match=r"pages\.seeds\.1: .*user name or password") as caught:
        stage(tmp_path, ["http://a.example/", seed]).check()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("seed", ["", "example.com", "ftp://a.example/", "http://", "http://a:b/"])
def test_what_is_no_web_address_is_refused(tmp_path, seed):
    with pytest.raises(ConfigError, match=r"pages\.seeds\.0: .* is not an http or https URL"):
        stage(tmp_path, [seed]).check()


def test_hosts_are_crawled_side_by_side_on_one_core(tmp_path):
    with serving({"/": replace(page(text="a page"), at_once=2)}) as web:  # each waits for the other
        hosts = [web.host, web.host.replace("127.0.0.1", "localhost")]
        pages = {"seeds": [f"http://{host}/" for host in hosts], "allow_private_hosts": hosts}
        config = {"name": "test", "queries": "none", "pages": pages, "ray": {"num_cpus": 1}}
        run = Run.open(Config.model_validate(config), tmp_path)
        assert run_stages(run, ["pages"]).code is ExitCode.COMPLETE
    receipts = run.receipts("pages").all()
    assert [receipt.rows["pages"]["kept"] for receipt in receipts] == [1, 1]
    began = [receipt.ended - receipt.seconds for receipt in receipts]
    assert max(began) < min(receipt.ended for receipt in receipts)
