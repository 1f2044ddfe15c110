"""Every reason for a rejected or failed row stands in docs/reasons.md, and no other does."""

import ast
import re
from pathlib import Path
from typing import get_args

from clip_model.image_files import Reason
from query_builder.settings import KINDS
from workers.pairs.captions import caption_rules
from workers.pairs.settings import CaptionSettings, LanguageSettings

ROOT = Path(__file__).parents[1]
REASON = re.compile(r"[a-z*][a-z0-9*]*(?:_[a-z0-9*]+)*")

#: What is called with a reason, what gives one, tables of them, and names for one.
TAKES = re.compile(
    "_?(reject|fail|miss|lose|give_up|reject_many|reject_rows|if_else)|(Url|Fetch|NotAPage|BadImage)Error"
)
GIVES = re.compile("_pin|_normal|_image_url|refusal|_rejection.*|_?(failure_)?reason")
TABLES = re.compile("FAILURES|REJECTIONS")
NAMES = re.compile("reason|unreachable|other")


def literals(node):
    """The reasons that a value may be: what differs from case to case in one is a star."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = re.sub(r"\\\d", "*", node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(
            str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values
        )
    else:
        inside = {
            ast.IfExp: lambda: [node.body, node.orelse],
            ast.BoolOp: lambda: node.values,
            ast.Tuple: lambda: node.elts,
            ast.Dict: lambda: node.values,
        }.get(type(node), list)()
        return {reason for part in inside for reason in literals(part)}
    return {text} if REASON.fullmatch(text) and text.strip("*") else set()


def name_of(node):
    return getattr(node, "id", getattr(node, "attr", ""))


def places(node):
    """The values in which reasons stand: where rows are counted, or it is said why."""
    if isinstance(node, ast.Call):
        yield from node.args if TAKES.fullmatch(name_of(node.func)) else ()
    elif isinstance(node, ast.keyword):
        yield from [node.value] if NAMES.fullmatch(node.arg or "") else ()
    elif isinstance(node, ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=True)
            yield from (value for name, value in pairs if NAMES.fullmatch(name_of(name)))
        elif NAMES.fullmatch(name_of(target)) or TABLES.fullmatch(name_of(target)):
            yield node.value
    elif isinstance(node, ast.AnnAssign):
        yield from [node.value] if TABLES.fullmatch(name_of(node.target)) else ()
    elif isinstance(node, ast.FunctionDef) and GIVES.fullmatch(node.name):
        yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Return))
    elif isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else "" for key in node.keys]
        yield from (value for key, value in zip(keys, node.values, strict=True) if key == "reason")
    elif isinstance(node, ast.Subscript) and name_of(node.value) in ("rejected", "failed"):
        yield node.slice


def reasons_in(path):
    """The reasons of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {reason for node in nodes for place in places(node) for reason in literals(place)}


def reasons_of_the_code():
    modules = [
        path
        for folder in ("clip_model", "pipelines", "query_builder", "workers")
        for path in (ROOT / folder).rglob("*.py")
    ]
    found = set().union(*map(reasons_in, modules))
    rules = caption_rules(CaptionSettings(language=LanguageSettings(allowed=("en",))))
    found -= set(KINDS)  # of queries
    return found | set(rules) | {reason.replace(" ", "_") for reason in get_args(Reason)}


def reasons_of_the_docs():
    rows = re.findall(r"^\| [a-z, ]+ \| (`.*?`) \|", (ROOT / "docs/reasons.md").read_text(), re.M)
    return {re.sub("[A-Z]+", "*", name) for row in rows for name in re.findall("`(.*?)`", row)}


def test_all_reasons_of_the_code_stand_in_the_docs_and_no_others():
    code, docs = reasons_of_the_code(), reasons_of_the_docs()
    assert sorted(code - docs) == [], "add them to docs/reasons.md, with what to do"
    assert sorted(docs - code) == [], "docs/reasons.md has what the code does not say"


def test_the_reasons_in_the_report_of_the_sample_stand_in_the_docs():
    table = (ROOT / "README.md").read_text().partition("| stage | rows |")[2].partition("\n\n")[0]
    shown = {
        re.sub(r"http_\d+", "http_*", word) for word in re.findall(r"([a-z_]\w+) [\d,]+", table)
    }
    docs = reasons_of_the_docs()
    patterns = [re.compile(name.replace("*", r"[a-z]+")) for name in docs if "*" in name]
    unknown = {name for name in shown - docs if not any(p.fullmatch(name) for p in patterns)}
    assert len(shown) > 20
    assert unknown == set()
