"""Wikitext to plain text, by a few compiled regular expressions.

Only prose is kept: templates, tables, references, formulas, categories and links to other
languages go, links and captions of pictures leave the text that a reader sees. Nested markup
is taken away from the inside out, and every pattern stops where the next construct of its
kind opens, so the time is linear in the text, and markup that is never closed loses its
brackets but no word.
"""

from __future__ import annotations

import html
import re

#: Stands where something was taken out of a sentence (U+FFFC, Unicode's character for that):
#: the words on its two sides are not neighbours.
GAP = "\ufffc"

#: MediaWiki expands templates to this depth and no deeper.
MAX_DEPTH = 40

#: Elements whose content is not prose.
_ELEMENTS = (
    "ref|math|chem|ce|gallery|timeline|source|syntaxhighlight|score|hiero|imagemap|"
    "templatestyles|templatedata|graph|mapframe|maplink|includeonly|inputbox|categorytree"
)
_FILE_OPTION = (
    r"thumb(?:nail)?|frame(?:d|less)?|border|left|right|center|centre|none|baseline|sub|super|"
    r"top|text-top|middle|bottom|text-bottom|upright(?:=[^|\[\]]*)?|[0-9]*(?:x[0-9]+)?\s*px|"
    r"(?:thumb|alt|link|page|lang|class|start|end)=[^|\[\]]*"
)

_COMMENT = re.compile(r"<!--[^<-]*+(?:(?:<(?!!--)|-(?!->))[^<-]*+)*+-->")
_ELEMENT = re.compile(
    rf"<({_ELEMENTS})\b[^<>]*+(?<!/)>[^<]*+(?:<(?!/?\1\b)[^<]*+)*+</\1\s*>", re.IGNORECASE
)
_TEMPLATE = re.compile(r"\{\{[^{}]*+(?:(?:\{(?!\{)|\}(?!\}))[^{}]*+)*+\}\}")
_TABLE = re.compile(r"\{\|[^{|]*+(?:(?:\{(?!\|)|\|(?!\}))[^{|]*+)*+\|\}")
_CATEGORY = re.compile(
    r"\[\[\s*(?:Category\s*:[^\[\]]*+|[^\[\]|:\s]++:[^\s\[\]|][^\[\]|]*+)\]\]", re.IGNORECASE
)
_FILE = re.compile(
    rf"\[\[\s*(?:File|Image)\s*:[^\[\]|]*+(?:\|\s*(?:{_FILE_OPTION})\s*(?=[|\]]))*+"
    r"\|?([^\[\]]*+)\]\]",
    re.IGNORECASE,
)
_LINK = re.compile(r"\[\[(?:[^\[\]]*\|)?([^\[\]|]*+)\]\]")
_EXTERNAL_LINK = re.compile(r"\[(?:[a-z]+:)?//[^\s\[\]]*+[^\S\n]*+([^\[\]\n]*+)\]", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s<>\[\]|{}]++")
_BLOCK_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|dl|dd|dt|tr|td|th|table|caption|blockquote|center|hr|h[1-6])\b"
    r"[^<>\n]*+>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-z][^<>\n]*+>", re.IGNORECASE)
_QUOTES = re.compile(r"''+")
_MAGIC_WORD = re.compile(r"__[A-Z]+__")
_LINE_START = re.compile(r"\n(?:[*#:;]+|=+|\|[-+}]?)[^\S\n]*")
_HEADING_END = re.compile(r"=[= \t]*\n")

#: What is left of them belongs to markup that was never closed or never opened.
_BRACKETS = ("{{", "}}", "[[", "]]", "{|", "<!--", "-->")


def plain_text(wikitext: str) -> str:
    """The prose of a page, with its paragraphs' line ends."""
    text = _COMMENT.sub("", wikitext)
    text = _ELEMENT.sub("", text)
    text = _inside_out(text, "{{", _TEMPLATE, GAP)
    text = _inside_out(text, "{|", _TABLE, GAP)
    text = _unlink(text)
    text = _URL.sub(GAP, text)
    text = _BLOCK_TAG.sub("\n", text)
    text = _TAG.sub("", text)
    text = _QUOTES.sub("", text)
    text = _MAGIC_WORD.sub(GAP, text)
    for bracket in _BRACKETS:
        text = text.replace(bracket, GAP)
    text = _LINE_START.sub("\n", f"\n{text}\n")
    text = _HEADING_END.sub("\n", text)[1:-1]
    # Last: "&lt;ref&gt;" in wikitext is the text "<ref>", not a tag.
    return html.unescape(text)


def _inside_out(text: str, opening: str, innermost: re.Pattern[str], instead: str) -> str:
    """Replace a bracketed construct and all that is nested in it."""
    for _ in range(MAX_DEPTH):
        if opening not in text:
            break
        text, replaced = innermost.subn(instead, text)
        if not replaced:
            break
    return text


def _unlink(text: str) -> str:
    """Replace links by what a reader sees of them. Captions of pictures hold further links."""
    text = _CATEGORY.sub("", text)
    for _ in range(MAX_DEPTH):
        if "[[" not in text:
            break
        before = len(text)
        # Joining what split gives puts the group in the place of each match, without the call
        # into Python for each match that sub with a template is.
        text = "\n".join(_FILE.split(text))
        text = "".join(_LINK.split(text))
        if len(text) == before:
            break
    return "".join(_EXTERNAL_LINK.split(text))
