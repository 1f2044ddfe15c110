"""Dumps of other wikis: what their head tells, and markup in their words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query_builder.dump import dump_parts, read_pages
from query_builder.image_words import ENGLISH, IMAGE_WORDS
from query_builder.links import GAP
from query_builder.markup import plain_text
from query_builder.wikis import UNKNOWN, Wiki, read_wiki
from tests.query_builder.conftest import dump_xml
from workers.base.tally import Tally

GERMAN = Wiki("de", ((1, "Diskussion"), (6, "Datei"), (14, "Kategorie")))
FRENCH = Wiki("fr", ((6, "Fichier"), (14, "Catégorie")))
RUSSIAN = Wiki("ru", ((6, "Файл"), (14, "Категория")))
JAPANESE = Wiki("ja", ((6, "ファイル"), (14, "Category")))
PERSIAN = Wiki("fa", ((6, "پرونده"), (14, "رده")))
HEBREW = Wiki("he", ((6, "קובץ"), (14, "קטגוריה")))
ESPERANTO = Wiki("eo", ((6, "Dosiero"), (14, "Kategorio")))  # whose words are not listed
CHINESE = Wiki("zh", ((6, "File"), (14, "Category")))
SERBIAN = Wiki("sr", ((6, "Датотека"), (14, "Категорија")))

SITEINFO = """<siteinfo><sitename>Wikipedia</sitename><namespaces>
<namespace key="-1" case="first-letter">Spezial</namespace>
<namespace key="0" case="first-letter" />
<namespace key="6" case="first-letter">Datei</namespace>
<namespace case='case-sensitive' key='14'>Kate&amp;gorie</namespace>
<namespace key="101">Portal_Diskussion</namespace>
</namespaces></siteinfo>
"""


def test_the_head_of_a_dump_tells_the_wiki():
    head = f'<mediawiki version="0.11" xml:lang="de-AT">\n{SITEINFO}<page><title>A</title>'
    names = ((-1, "Spezial"), (6, "Datei"), (14, "Kate&gorie"), (101, "Portal Diskussion"))
    assert read_wiki(head.encode()) == Wiki("de-at", names)
    # What stands in a page is no head, and a dump may tell nothing.
    text = '<namespace key="6">Falsch</namespace>'
    assert read_wiki(f"<mediawiki><page>{text}</page>".encode()) == UNKNOWN
    assert read_wiki(b"\xff<namespace key='6'>\xff</namespace>").names(6) == ["\ufffd"]


@pytest.mark.parametrize(
    ("wiki", "link", "caption"),
    [
        (GERMAN, "[[Datei:a.jpg|mini|rechts]]", ""),
        (GERMAN, "[[datei:a b.jpg|hochkant=1.2|Eine [[Katze|schwarze Katze]]|links|220px]]",
         "Eine schwarze Katze"),
        (GERMAN, "[[Bild:a.jpg|mini|Hund]]", "Hund"),
        (GERMAN, "[[Image:a.jpg|thumb|Hund]]", "Hund"),
        (GERMAN, "[[ File : a.jpg | mini | verweis = x | alternativtext=kein | Hund ]]", " Hund "),
        (GERMAN, "[[Datei:a.jpg|mini|Siehe [http://a.example die Seite] und [sic]]]",
         "Siehe die Seite und [sic]"),
        (GERMAN, "[[Datei:a.jpg|mini|Hund|{{Breite}}px]]", "Hund"),
        (GERMAN, "[[Datei:a.jpg|mini|Hund|]]", "Hund"),
        (GERMAN, "[[Datei:a.jpg|seite=2|seite 3|Links der Hund]]", "Links der Hund"),
        (FRENCH, "[[Fichier:a.jpg|vignette|redresse=0.8|gauche|Un chat]]", "Un chat"),
        (FRENCH, "[[Fichier:a.jpg|sans cadre|non_encadré]]", ""),
        (RUSSIAN, "[[Файл:a.jpg|мини|слева|200пкс|Кошка]]", "Кошка"),
        (RUSSIAN, "[[Изображение:a.jpg|справа|200x300пкс]]", ""),
        (JAPANESE, "[[画像:a.jpg|サムネイル|右|200ピクセル|猫]]", "猫"),
        (PERSIAN, "[[پرونده:a.jpg|بندانگشتی|چپ|گربه]]", "گربه"),
        (HEBREW, "[[\u200fקובץ:a.jpg|ממוזער|שמאל|250px|חתול]]", "חתול"),
        (ESPERANTO, "[[Dosiero:a.jpg|eta|maldekstre|Kato]]", "Kato"),
        (ESPERANTO, "[[Dosiero:a.jpg|mini|rechts]]", ""),
        (UNKNOWN, "[[File:a.jpg|thumb|A cat|alt=no|right|x220px]]", "A cat"),
        (UNKNOWN, "[[File:a.jpg|thumb|rechts]]", "rechts"),
    ],
)  # fmt: skip
def test_a_file_leaves_its_caption_and_no_option(wiki, link, caption):
    assert plain_text(f"x{link}y", wiki) == f"x\n{caption}\ny"


@pytest.mark.parametrize("language", [*IMAGE_WORDS, "en"])
def test_every_word_of_an_option_is_known_alone_and_with_a_value(language):
    words = IMAGE_WORDS.get(language, ENGLISH)
    for name in words.files.split():
        options = [f"|{word.replace('_', ' ')}" for word in words.options.split()]
        values = [f"|{key}=x y" for key in words.keys.split()]
        link = f"[[{name}:a.jpg|kept{''.join(options)}{''.join(values)}]]"
        assert plain_text(link, Wiki(language)) == "\nkept\n"


@pytest.mark.parametrize(
    ("wiki", "link", "text"),
    [
        (GERMAN, "[[Kategorie:Katzen]]", ""),
        (GERMAN, "[[kategorie: Katzen |Sortierung]]", ""),
        (GERMAN, "[[Category:Katzen|Sortierung]]", ""),
        (GERMAN, "[[:Kategorie:Katzen|alle Katzen]]", "alle Katzen"),
        (CHINESE, "[[分类:猫|排序]]", ""),
        (RUSSIAN, "[[Категория:Кошки|Сорт]]", ""),
        (UNKNOWN, "[[Kategorie:Katzen|Sortierung]]", "Sortierung"),
    ],
)
def test_categories_go_by_the_name_that_the_wiki_has(wiki, link, text):
    assert plain_text(f"x{link}y", wiki) == f"x{text}y"


@pytest.mark.parametrize(
    ("wiki", "markup", "text"),
    [
        (CHINESE, "-{zh-hans:计算机;zh-hant:電腦}-", "计算机"),
        (CHINESE, "-{zh-hant:電腦; zh-hans:计算机;}-", "電腦"),
        (CHINESE, "-{zh-hans:[[计算机|机]];zh-hant:[[電腦]]}-", "机"),
        (CHINESE, "-{A|zh-cn:网络; zh-tw:網路}-", "网络"),
        (CHINESE, "-{电脑=>zh-cn:计算机}-", "计算机"),
        (CHINESE, "-{R|原文}-", "原文"),
        (CHINESE, "-{原文: 甲；乙}-", "原文: 甲；乙"),
        (CHINESE, "-{zh-hans|原文}-", "原文"),
        (CHINESE, "-{H|zh-cn:网络;zh-tw:網路}-", ""),
        (CHINESE, "-{T|zh-cn:网络}-", ""),
        (CHINESE, "-{-|zh-cn:网络}-", ""),
        (CHINESE, "-{zh-hans:甲-{zh-hans:乙;zh-hant:丙}-;zh-hant:丁}-", "甲乙"),
        (SERBIAN, "-{sr-ec:Београд; sr-el:Beograd}-", "Београд"),
        (UNKNOWN, "-{amino: a}-", "-{amino: a}-"),  # chemistry: it has no variants
    ],
)
def test_of_variants_the_first_is_read(wiki, markup, text):
    assert plain_text(f"x{markup}y", wiki) == f"x{text}y"


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ('{{Table start}}\n|- style="a:b" class=x\n! scope="col" | H !! colspan=2 | I',
         f"{GAP}\n{GAP}\n{GAP} H {GAP} I"),
        ('{{Table start}}\n|-\n| style="x: y" | one || rowspan="2"| two || 7\n|}',
         f"{GAP}\n\n{GAP} one {GAP} two || 7\n"),
        ("{{Tabelle}}\n| {{Stil}} class=x | one", f"{GAP}\n{GAP} one"),
        ("{| {{Tabellenstil}} class=x\n| one\n|}two", f"{GAP}two"),
        ("{{(!}} class=x\n{{!-}} style=y\n{{!}} one\n{{!)}} two", f"{GAP} two"),
        ("[[File:a.jpg{{!}}thumb{{!}}one]]", "\none\n"),
        ("one || two = three | four", "one || two = three | four"),
        ("a <nowiki>[[b]] {{c}} <!-- d --> ''e''</nowiki> f", "a [[b]] {{c}} <!-- d --> ''e'' f"),
        ("a<!-- <nowiki> -->b<pre>{| c\n|}</pre>", "ab{| c\n|}"),
        ("__INHALTSVERZEICHNIS_ERZWINGEN__a __目次非表示__ __init__", f"{GAP}a {GAP} __init__"),
        ("a &#" + "9" * 5_000 + "; &amp; b", f"a {GAP} & b"),
    ],
)  # fmt: skip
def test_markup_that_other_wikis_have_more_of(wikitext, text):
    assert plain_text(wikitext) == text


@settings(deadline=None)
@given(st.text("ab:|[]{}-;=!\n", max_size=60), st.sampled_from([GERMAN, CHINESE, ESPERANTO]))
def test_any_text_is_accepted_of_any_wiki(text, wiki):
    plain_text(text, wiki)
    plain_text(f"[[Datei:{text}]]-{{{text}}}-", wiki)


@pytest.mark.parametrize(
    "piece", ["-{", "-{a|", "[[Datei:a|[", "<nowiki>", "||a=", "\n|a='b", "__A"]
)
def test_time_is_linear_on_what_never_closes(piece):
    plain_text(piece * 50_000 + "</nowiki>\n|", CHINESE)  # quadratic would take minutes
    plain_text(piece * 50_000 + "</nowiki>\n|", GERMAN)


def test_pages_are_read_as_their_dumps_head_says(tmp_path):
    text = "[[Datei:a.jpg|mini|rechts]]Hund[[Kategorie:Hunde|rechts]]"
    xml = dump_xml([("Hund", text)]).replace("<page>", f"{SITEINFO}<page>", 1)
    path = tmp_path / "dewiki.xml"
    xml = xml.replace("&amp;gorie", "gorie")
    path.write_text(xml.replace("<mediawiki", '<mediawiki xml:lang="de"'))
    (part,) = dump_parts(str(path))
    (page,) = read_pages(part, Tally())
    assert plain_text(page.text, part.wiki).split() == ["Hund"]


def test_a_page_without_ns_is_told_by_its_title(tmp_path):
    pages = ["Kategorie:Hunde", "datei: x", "Portal_Diskussion:A", "2001: Odyssee", "Hund"]
    xml = dump_xml((title, "text") for title in pages).replace("<ns>0</ns>", "")
    path = tmp_path / "dewiki.xml"
    path.write_text(xml.replace("<page>", f"{SITEINFO.replace('&amp;', '')}<page>", 1))
    tally = Tally()
    (part,) = dump_parts(str(path))
    assert [page.title for page in read_pages(part, tally)] == ["2001: Odyssee", "Hund"]
    assert tally.rejected == {"not_an_article": 3}
