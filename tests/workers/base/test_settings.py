from __future__ import annotations

import pytest
from pydantic import ValidationError

from workers.base.settings import CrawlSettings, DownloadSettings, has_contact, product_token


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("birds-research (+https://birds.example/bot)", "birds-research"),
        ("birds-research", "birds-research"),
        ("Birds_Research/1.0", "birds_research"),
        (" birds-research ", "birds-research"),
        ("ExampleBot/0.1 (https://example.com/bot.html)", "examplebot"),
        ("Mozilla/5.0 (compatible; ExampleBot/0.1; +https://example.com/bot.html)", "examplebot"),
        ("Mozilla/5.0 (Linux) AppleWebKit/537.36 (compatible; ExampleBot/0.1)", "examplebot"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0", None),
        ("mozilla", None),
        ("birds2 (+https://birds.example/bot)", None),
        ("birds.research/1.0", None),
        ("vögel/1.0", None),
        ("鸟", None),
        ("\u212aestrel", None),  # a Kelvin sign, which is a K to those who ignore case
        ("(birds)", None),
        ("", None),
        ("*", None),
    ],
)
def test_the_product_token_is_what_a_user_agent_begins_with(user_agent, token):
    assert product_token(user_agent) == token


@pytest.mark.parametrize("kind", [CrawlSettings, DownloadSettings])
def test_whose_rules_count(kind):
    named = kind(user_agent="Birds (+https://birds.example/bot)", obey_agents=["CCBot", "birds"])
    assert named.agents == ("birds", "ccbot")
    assert kind(user_agent="birds").agents == ("birds",)


@pytest.mark.parametrize("kind", [CrawlSettings, DownloadSettings])
@pytest.mark.parametrize("name", ["", "*", "CCBot/2.0", "CC Bot", "CCBot2", " CCBot", "Mozilla"])
def test_a_crawler_that_robots_txt_cannot_address_cannot_be_obeyed(kind, name):
    with pytest.raises(ValidationError, match="no crawler's name of letters"):
        kind(obey_agents=[name])


def test_a_crawl_depends_on_whose_rules_count_and_images_that_are_there_do_not():
    assert CrawlSettings(obey_agents=("CCBot",)).identity() != CrawlSettings().identity()
    assert DownloadSettings(obey_agents=("CCBot",)).identity() == DownloadSettings().identity()


@pytest.mark.parametrize("kind", [CrawlSettings, DownloadSettings])
@pytest.mark.parametrize(
    ("user_agent", "message"),
    [
        ("2birds", "begins with a name of letters, - and _: write it as `birds-research"),
        ("", "begins with a name of letters"),
        ("birds (vögel)", "one line of ASCII"),
        ("birds\r\nCookie: a=b", "one line of ASCII"),
    ],
)
def test_a_user_agent_that_robots_txt_cannot_address_is_refused(kind, user_agent, message):
    with pytest.raises(ValidationError, match=message):
        kind(user_agent=user_agent)


@pytest.mark.parametrize(
    ("user_agent", "is_contact"),
    [
        ("birds-research (+https://birds-research.org/bot)", True),
        ("birds-research/1.0 (https://lab.birds-research.org:8080)", True),
        ("birds-research (birds+bot@birds-research.org)", True),
        ("birds-research; HTTP://BIRDS.ORG", True),
        ("birds-research (+https://xn--vgel-5qa.xn--p1ai/)", True),
        ("birds-research (+https://my-example.com/)", True),
        ("birds-research (+https://example.com.birds.org/)", True),
        ("birds-research (+https://example.org/, bot@birds.org)", True),
        ("birds-research", False),
        ("birds-research (birds.org)", False),
        ("birds-research (bot at birds.org)", False),
        ("birds-research (+https://example.com/bot)", False),
        ("birds-research (+https://www.EXAMPLE.org/bot)", False),
        ("birds-research (bot@example.net)", False),
        ("birds-research (+https://birds.example/bot)", False),
        ("birds-research (+https://birds.test, bot@birds.invalid)", False),
        ("birds-research (+https://localhost/)", False),
        ("birds-research (+http://127.0.0.1/)", False),
        ("birds-research (+https://DOMAIN/bot)", False),
        ("birds-research (NAME@DOMAIN)", False),
        ("clip-from-scratch", False),
    ],
)
def test_a_contact_is_where_somebody_may_be_reached(user_agent, is_contact):
    assert has_contact(user_agent) is is_contact
