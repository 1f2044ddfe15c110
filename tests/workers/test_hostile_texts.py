"""A short form of ``python -m benchmarks.fuzz``: a few damaged files of every kind."""

from __future__ import annotations

import pytest

from benchmarks.hostile_texts import Kind, kinds


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_damage_costs_what_it_is_in_and_no_more(kind: Kind, tmp_path):
    found = kind.round(number=0, files=30, folder=tmp_path)
    assert found is None, found
    assert kind.files >= 30
