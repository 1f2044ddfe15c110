"""Who asks hosts of the public internet can be reached by their owners, or asks nothing."""

import pytest

from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.runner import check

SOMEBODY = {"user_agent": "birds-research (+https://birds-research.org/bot)"}
NOBODY = {"user_agent": "birds-research (+https://birds.example/bot)"}
PUBLIC = {"seeds": ["https://birds-research.org/"]}
OWN = {
    "seeds": ["http://127.0.0.1:8931/", "http://127.0.0.1/"],
    "allow_private_hosts": ["127.0.0.1:8931", "127.0.0.1:80"],
}
EXAMPLE = r"as in `birds-research \(\+https://DOMAIN/bot\)`"


@pytest.fixture
def checked(tmp_path):
    def _checked(pages, images, *stages):
        tree = {"name": "test", "queries": "none", "pages": pages, "images": images}
        check(Run(Config.model_validate(tree), tmp_path / "run"), stages or ["pages", "images"])

    return _checked


@pytest.mark.parametrize("agent", [{}, NOBODY], ids=["default", "example"])
def test_a_run_that_asks_the_web_names_a_contact_before_any_work(checked, agent):
    with pytest.raises(ConfigError, match=r"^pages\.user_agent: birds-research\.org .*" + EXAMPLE):
        checked(PUBLIC | agent, SOMEBODY)
    with pytest.raises(ConfigError, match=r"^images\.user_agent: .*" + EXAMPLE):
        checked(PUBLIC | SOMEBODY, agent)
    checked(PUBLIC | SOMEBODY, SOMEBODY)
    checked(PUBLIC | agent, agent, "pairs", "selection")  # which ask nothing


def test_one_on_loopback_needs_none(checked, tmp_path):
    checked(OWN, {"allow_private_hosts": ["127.0.0.1:8931"]})
    checked({}, {"local_roots": {"pictures": str(tmp_path)}})


@pytest.mark.parametrize(
    "seed", ["https://127.0.0.1/", "http://127.0.0.1:81/", "http://a.org/", "http://[::1]:8931/"]
)
def test_each_seed_of_a_crawl_counts(checked, seed):
    with pytest.raises(ConfigError, match=r"^pages\.user_agent: .* pages\.allow_private_hosts"):
        checked({**OWN, "seeds": [*OWN["seeds"], seed]}, SOMEBODY)
