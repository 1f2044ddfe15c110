"""What all filters have in common."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pyarrow as pa

import workers.selection
from workers.selection import property_filters
from workers.selection.base_filter import Filter
from workers.selection.settings import AnyFilter

FILTERS = get_args(AnyFilter)


def subclasses(kind):
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_filter_that_is_written_can_be_named():
    for module in iter_modules(workers.selection.__path__, "workers.selection."):
        import_module(module.name)
    written = {kind for kind in subclasses(Filter) if "filter" in kind.model_fields}
    written = {kind for kind in written if kind.__module__.startswith("workers.")}
    assert written == set(FILTERS)


def test_filters_have_reasons_and_names_of_their_own():
    reasons = [kind.reason for kind in FILTERS]
    names = [get_args(kind.model_fields["filter"].annotation)[0] for kind in FILTERS]
    assert len(FILTERS) == len(set(reasons)) == len(set(names))


def test_the_filter_of_the_docs_works():
    page = (Path(__file__).parents[3] / "docs/selection.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    known = dict(vars(property_filters))
    exec(code, known)
    rows = pa.table({"pair_id": ["a", "b"], "width": [300, 200], "height": [200, 200]})
    step = known["Shape"].model_validate({"filter": "shape", "min_ratio": 1.5})
    survivors = None  # it judges a pair by itself
    assert step.fit(survivors, 0)(rows).tolist() == [True, False]
