"""Wikitext to plain text: what goes, what stays, and that damage loses no word."""

import re
import sys
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query_builder.dump import read_pages
from query_builder.links import GAP
from query_builder.markup import plain_text
from query_builder.sources import Part
from workers.base.tally import Tally


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("a [[cat]], [[dog|dogs]], [[bus]]es", "a cat, dogs, buses"),
        ("see [http://example.org the site] now", "see the site now"),
        ("one<!-- two --> three", "one three"),
        ("one<ref>two</ref>, three<ref name=x />.", "one, three."),
        ('one<ref name="a">{{cite|title=x}} two</ref> three', "one three"),
        ("H<sub>2</sub>O<br/>ice", "H2O\nice"),
        ("== History ==", "History "),
        ("* item\n# item", "item\nitem"),
        ("fish&nbsp;&amp;&nbsp;chips", "fish\xa0&\xa0chips"),
        ("&lt;ref&gt;", "<ref>"),
        ("a {{b|{{c}} d}} e", f"a {GAP} e"),
        ("a {{b|{x} y}} e", f"a {GAP} e"),
        ("a <math>\\frac{1}{2}</math> e", "a  e"),
        ("end\n{| class=x\n! h\n|-\n| cell\n|}\nnext", f"end\n{GAP}\nnext"),
        ("{|\n|\n{|\n| in\n|}\n| out\n|}z", f"{GAP}z"),
        ("[[Category:Cats]][[fr:Chat]]x", "x"),
        ("[[Terminator 2: Judgment Day]]", "Terminator 2: Judgment Day"),
        ("[[File:a.jpg|thumb|200px|alt=no|A [[cat]] on a mat]]", "\nA cat on a mat\n"),
        ("[[Image:a.jpg|right]]b", "\n\nb"),
        ("__NOTOC__a", f"{GAP}a"),
    ],
)
def test_markup(wikitext, text):
    assert plain_text(wikitext) == text


@pytest.mark.parametrize(
    "damaged",
    [
        "{{infobox | one two three",
        "one {{ two }} }} three {{ four",
        "{| class=x\n| one two",
        "[[one two",
        "[[File:one.jpg|two [[three]]",
        "<ref>one two",
        "<!-- one two",
        "one '' two ''' three",
        "<div one two",
    ],
)
def test_unbalanced_markup_loses_no_word(damaged):
    kept = [word for word in ("one", "two", "three", "four") if word in damaged]
    if "{{ two }}" in damaged:
        kept.remove("two")  # that one is balanced
    assert [word for word in kept if word in plain_text(damaged)] == kept


@settings(deadline=None)
@given(st.text(alphabet="ab {}[]|<>!-'=/\n:", max_size=60))
def test_any_text_is_accepted(text):
    plain_text(text)


@settings(deadline=None)
@given(st.text(alphabet="abc .,\n", max_size=60))
def test_text_without_markup_is_unchanged(text):
    assert plain_text(text) == text


@pytest.mark.parametrize("piece", ["{{", "{|", "[[", "<!--", "<ref>", "[[File:a|", "{{a}", "[//"])
def test_time_is_linear_on_brackets_that_never_close(piece):
    start = time.perf_counter()
    plain_text(piece * 100_000)
    assert time.perf_counter() - start < 5  # seconds; quadratic would take minutes


def test_heavy_tables_leave_prose(tables):
    texts = [plain_text(page.text) for page in read_pages(Part(str(tables)), Tally())]
    assert len(texts) == 5
    for text in texts:
        assert "{|" not in text
        assert "|-" not in text
        assert "style=" not in text
        assert len(text.split()) > 100


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="gensim cannot be built for Python 3.14")
def test_keeps_the_words_that_gensim_keeps(enwiki):
    from gensim.corpora.wikicorpus import filter_wiki

    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for page in list(read_pages(Part(str(enwiki)), Tally()))[:30]:
        ours.update(re.findall(r"[a-z]{3,}", plain_text(page.text).lower()))
        theirs.update(re.findall(r"[a-z]{3,}", filter_wiki(page.text).lower()))
    # gensim also keeps the cells of tables and the options of images.
    assert (ours & theirs).total() / theirs.total() > 0.95
    assert (ours & theirs).total() / ours.total() > 0.95
