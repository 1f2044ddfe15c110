"""Wikitext to plain text, by a few compiled regular expressions.

Only prose is kept: templates, tables, references, formulas, categories and links to other
languages go, links and captions of images leave the text that a reader sees. Nested markup
is taken away from the inside out, and every pattern stops where the next construct of its
kind opens, so the time is linear in the text, and markup that is never closed loses its
brackets but no word. ``links.py`` has the links, which depend on the wiki.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from query_builder.links import GAP, MAX_DEPTH, unlink
from query_builder.wikis import UNKNOWN, Wiki
from workers.base.references import unescape

#: Elements whose content is not prose.
_ELEMENTS = (
    "ref|math|chem|ce|gallery|timeline|source|syntaxhighlight|score|hiero|imagemap|"
    "templatestyles|templatedata|graph|mapframe|maplink|includeonly|inputbox|categorytree"
)
_COMMENT = re.compile(r"<!--[^<-]*+(?:(?:<(?!!--)|-(?!->))[^<-]*+)*+-->")
_LITERAL_TAG = re.compile(r"<(?:nowiki|pre)\b", re.IGNORECASE)
#: What is text as it stands, and comments, so that neither is found inside the other.
_LITERAL = re.compile(
    rf"{_COMMENT.pattern}|<(nowiki|pre)\b[^<>]*+(?<!/)>([^<]*+(?:<(?!/?\1\b)[^<]*+)*+)</\1\s*>",
    re.IGNORECASE,
)
_ELEMENT = re.compile(
    rf"<({_ELEMENTS})\b[^<>]*+(?<!/)>[^<]*+(?:<(?!/?\1\b)[^<]*+)*+</\1\s*>", re.IGNORECASE
)
#: Templates that write the marks of tables where these cannot stand themselves.
_MARK = re.compile(r"\{\{\s*(\(!|!\)|!-|!\+|!!|!)\s*\}\}")
_MARKS = {"(!": "{|", "!)": "|}", "!-": "|-", "!+": "|+", "!!": "||", "!": "|"}
_TEMPLATE = re.compile(r"\{\{[^{}]*+(?:(?:\{(?!\{)|\}(?!\}))[^{}]*+)*+\}\}")
_TABLE = re.compile(r"\{\|[^{|]*+(?:(?:\{(?!\|)|\|(?!\}))[^{|]*+)*+\|\}")
#: Attributes in a table whose beginning or end is in a template: of the table or a row, at the
#: end of a line, or of a cell, before its text.
_ATTRIBUTE = r"""[\w:-]++[ \t]*+=[ \t]*+(?:"[^"\n]*+"|'[^'\n]*+'|[^\s|"']++)"""
_ATTRIBUTES = rf"[ \t]*+(?:(?:{_ATTRIBUTE}|{GAP})[ \t]*+)++"
_TABLE_ATTRIBUTES = re.compile(
    rf"^[|{{]*(?:\{{\||\|-++){_ATTRIBUTES}$|(?:^[|!]|\|\||!!){_ATTRIBUTES}\|(?!\|)", re.MULTILINE
)
_VARIANT = re.compile(r"-\{([^{}]*+)\}-")
_URL = re.compile(r"https?://[^\s<>\[\]|{}]++")
_BLOCK_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|dl|dd|dt|tr|td|th|table|caption|blockquote|center|hr|h[1-6])\b"
    r"[^<>\n]*+>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-z][^<>\n]*+>", re.IGNORECASE)
_QUOTES = re.compile(r"''+")
#: In capitals, or in letters that have none: __INHALTSVERZEICHNIS_ERZWINGEN__, __目次__.
_MAGIC_WORD = re.compile(r"__[^\W\da-z_]++(?:_[^\W\da-z_]++)*+__")
_LINE_START = re.compile(r"\n(?:[*#:;]+|=+|\|[-+}]?)[^\S\n]*")
_HEADING_END = re.compile(r"=[= \t]*\n")

#: What is left of them belongs to markup that was never closed or never opened.
_BRACKETS = ("{{", "}}", "[[", "]]", "{|", "<!--", "-->")

#: Languages that have variants of one another (MediaWiki's language converters).
_CONVERTED = (
    *("ban", "crh", "gan", "iu", "kk", "ku", "mni", "sh", "shi"),
    *("sr", "tg", "tly", "uz", "wuu", "zgh", "zh"),
)


def plain_text(wikitext: str, wiki: Wiki = UNKNOWN) -> str:
    """The prose of a page, with its paragraphs' line ends."""
    text = _without_comments(wikitext)
    text = _ELEMENT.sub("", text)
    if "!}}" in text:
        text = _MARK.sub(lambda mark: _MARKS[mark[1]], text)
    text = _inside_out(text, "{{", _TEMPLATE, GAP)
    text = _inside_out(text, "{|", _TABLE, GAP)
    if "|" in text and "\n|" in text:
        text = _TABLE_ATTRIBUTES.sub(GAP, text)
    if wiki.language in _CONVERTED:
        text = _inside_out(text, "-{", _VARIANT, partial(_first_variant, wiki.language))
    text = unlink(text, wiki)
    text = _URL.sub(GAP, text)
    text = _BLOCK_TAG.sub("\n", text)
    text = _TAG.sub("", text)
    text = _QUOTES.sub("", text)
    text = _MAGIC_WORD.sub(GAP, text)
    for bracket in _BRACKETS:
        if bracket[0] in text and bracket[-1] in text:  # a single character is found sooner
            text = text.replace(bracket, GAP)
    text = _LINE_START.sub("\n", f"\n{text}\n")
    text = _HEADING_END.sub("\n", text)[1:-1]
    # Last: "&lt;ref&gt;" in wikitext is the text "<ref>", not a tag.
    return unescape(text, huge=GAP)


def _without_comments(text: str) -> str:
    if _LITERAL_TAG.search(text):
        return _LITERAL.sub(_as_text, text)
    return _COMMENT.sub("", text)


#: References for what would be markup.
_ESCAPES = {ord(mark): f"&#{ord(mark)};" for mark in "[]{}|<>'_"}


def _as_text(found: re.Match[str]) -> str:
    """Nothing for a comment; else the content, of which no markup is understood any more."""
    return "" if found[1] is None else str(found[2]).translate(_ESCAPES)


def _inside_out(
    text: str,
    opening: str,
    innermost: re.Pattern[str],
    instead: str | Callable[[re.Match[str]], str],
) -> str:
    """Replace a bracketed construct and all that is nested in it."""
    for _ in range(MAX_DEPTH):
        if opening not in text:
            break
        text, replaced = innermost.subn(instead, text)
        if not replaced:
            break
    return text


def _first_variant(language: str, found: re.Match[str]) -> str:
    """What is shown of ``-{zh-hans:X;zh-hant:Y}-``: the first variant that is written, X.

    Before a line there may be flags: R and A show what follows, H, T and - hide it.
    """
    flags, bar, text = found[1].partition("|")
    if not bar or not re.fullmatch(r"[\sA-Z;-]*|[\sa-z;-]*", flags):
        flags, text = "", found[1]
    if set(flags) & set("HT") or flags.strip() == "-":
        return ""
    code = rf"(?:{language}|ike)(?:-[a-z]+)*"
    _, *rules = re.split(rf"(?:^|;)\s*(?:[^;:]*=>\s*)?{code}\s*:", text)
    return str(rules[0]).strip(" ;") if rules else text
