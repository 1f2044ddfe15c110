"""Page views: both formats, damage, and that they are summed by title and exact."""

import bz2
import gzip
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from query_builder import views
from query_builder.names import index_titles, normal_titles
from query_builder.settings import QuerySettings
from query_builder.titles import add_views
from query_builder.view_lines import Codes, parse_lines
from query_builder.views import read_views
from workers.base.compressed import Chunk
from workers.base.tally import Tally

MONTHLY = (
    "de.wikipedia Cat 77 desktop 1000 A1000\n"
    "en.wikipedia AC/DC 11 desktop 30 A10B20\n"
    "en.wikipedia AC/DC 11 mobile-web 12 A12\n"
    'en.wikipedia "Heroes"_(album) null mobile-app 5 A5\n'
    "en.wikipedia Cat desktop 3 C3\n"  # from before page ids
    "en.wikipedia Nowhere 12 desktop 8 A8\n"
    "en.wiktionary cat 12 desktop 900 A900\n"
)
HOURLY = "de Cat 500 0\nen AC/DC 1 0\nen cat 2 0\nen.m AC/DC 4 0\nen.zero Cat 8 0\nen.d cat 99 0\n"
TITLES = ["AC/DC", "Cat", '"Heroes" (album)', "Zürich", "Unseen"]
EN = ("en.wikipedia",)


def read(path: Path, projects: tuple[str, ...] = EN) -> tuple[dict[str, int], Tally]:
    tally = Tally()
    index = index_titles(TITLES)
    sums = read_views(path, index, projects, tally)
    tally.check()
    seen = dict(zip(index.to_pylist(), sums.tolist(), strict=True))
    return {title: count for title, count in seen.items() if count}, tally


@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress])
def test_monthly_views_are_summed_over_access_types(tmp_path, compress):
    path = tmp_path / "pageviews-202610-user"
    path.write_bytes(compress(MONTHLY.encode()))
    seen, tally = read(path)
    assert seen == {"AC/DC": 42, '"Heroes" (album)': 5, "Cat": 3}
    assert tally.counts() == {
        "in": 7,
        "kept": 4,
        "rejected": {"not_in_dump": 1, "other_project": 2},
        "failed": {},
    }
    assert tally.samples["not_in_dump"].popitem()[1] == {"query": "Nowhere", "views": 8}


def test_the_sample_of_other_titles_is_the_most_viewed_whatever_the_look_ups(tmp_path, monkeypatch):
    path = tmp_path / "views"
    path.write_text("".join(f"en Other_{i} {i} 0\n" for i in (*range(40, 80), *range(40))))
    monkeypatch.setattr(views, "BLOCK_BYTES", 100)
    monkeypatch.setattr(views, "PENDING_ROWS", 10)
    sample = read(path)[1].samples["not_in_dump"]
    assert [row["views"] for _, row in sorted(sample.items())] == list(range(79, 59, -1))


def test_hourly_views_are_summed_over_sites(tmp_path):
    path = tmp_path / "pageviews-20261001-000000.gz"
    path.write_bytes(gzip.compress(HOURLY.encode()))
    assert read(path)[0] == {"AC/DC": 5, "Cat": 10}  # the first letter has no case
    assert read(path, ("de.wikipedia",))[0] == {"Cat": 500}
    assert read(path, ("de.wikipedia", *EN))[0] == {"AC/DC": 5, "Cat": 510}


def test_formats_may_be_mixed_in_a_file_and_the_last_line_may_lack_its_end(tmp_path):
    path = tmp_path / "views"
    path.write_text(HOURLY + MONTHLY.rstrip("\n") + "\nen Cat 1 0")
    assert read(path)[0] == {"AC/DC": 47, "Cat": 14, '"Heroes" (album)': 5}


@pytest.mark.parametrize("title", ["Z%C3%BCrich", "Zürich", "zürich", "__Z%c3%bcrich_"])
def test_percent_encoding_underscores_and_case_of_the_first_letter(tmp_path, title):
    path = tmp_path / "views"
    path.write_text(f"en {title} 7 0\n")
    assert read(path)[0] == {"Zürich": 7}


def test_normal_titles_are_as_mediawiki_writes_them():
    titles = pa.array(["élan_vital", "100%", "a__b", " x ", "ǆ", ""])
    assert normal_titles(titles).to_pylist() == ["Élan vital", "100%", "A b", "X", "Ǆ", ""]


@pytest.mark.parametrize(
    "line",
    [
        b"en Cat 7",  # a field is missing
        b"en The cat 7 0",  # one too many
        b"en Cat seven 0",
        b"en Cat -7 0",
        b"en Cat 9999999999999999 0",  # more than there are people
        b"en C\xfft 7 0",  # not UTF-8
        b"en C%FFt 7 0",
        b"en.wikipedia Cat 12 0",  # the hourly format with the monthly code
        b"en.wikipedia Cat 12 printer 7 A7",
        b"en Cat 12 desktop 7 A7",
    ],
)
def test_malformed_lines_have_failed_and_are_shown(tmp_path, line):
    path = tmp_path / "views"
    path.write_bytes(b"en Cat 1 0\n" + line + b"\n\nen Cat 2 0\n")
    seen, tally = read(path)
    assert seen == {"Cat": 3}
    assert tally.failed == {"malformed_line": 1}
    assert tally.rejected == {"other_project": 1}  # the empty one
    shown = tally.samples["malformed_line"].popitem()[1]
    assert shown == {"line": line.decode(errors="replace")}


def test_damaged_file_gives_what_can_be_read_of_it(tmp_path):
    lines = "".join(f"en Cat {i} 0\n" for i in range(200_000))
    path = tmp_path / "cut.gz"
    stored = gzip.compress(lines.encode())
    path.write_bytes(stored[: len(stored) // 2])
    seen, tally = read(path)
    assert tally.failed == {"damaged_views": 1}
    (sample,) = tally.samples["damaged_views"].values()
    assert sample["file"] == str(path)
    whole = sum(range(tally.kept))
    assert tally.kept > 50_000
    assert seen == {"Cat": whole}  # no part of a line was taken for a line


def test_damage_costs_the_lines_that_it_touches_and_no_other():
    tally = Tally()
    chunks = [
        Chunk(0, b"en Cat 1 0\nen C"),
        Chunk(5, damage="a"),
        Chunk(6, b"at 2 0\nen Cat 4 0"),
        Chunk(8, b"\nen Cat 8"),
        Chunk(9, damage="b"),
    ]
    blocks = b"".join(views._blocks(chunks, Path("views"), tally))
    assert blocks == b"en Cat 1 0\nen Cat 4 0\n"
    assert tally.failed == {"damaged_views": 2}


def test_unknown_project_is_refused_and_told():
    with pytest.raises(ValueError, match=r"write 'en' as en\.wikipedia"):
        QuerySettings(view_projects=("en",))
    with pytest.raises(ValueError, match="titles is none"):
        QuerySettings(views=("views",), titles="none")


LINES = st.lists(
    st.tuples(
        st.sampled_from(["aa", "en", "en.m", "en.wikipedia", "fr"]),
        st.sampled_from(["Cat", "AC/DC", "Nowhere", "Z%C3%BCrich", "Zürich"]),
        st.integers(0, 1000),
    ),
    max_size=30,
)


@hypothesis_settings(deadline=None, max_examples=60)
@given(LINES, st.integers(1, 200), st.integers(1, 20), st.randoms(use_true_random=False))
def test_sums_depend_on_the_lines_alone(tmp_path_factory, lines, block, pending, random):
    """Exact, whatever the blocks, the files and the order; against a loop over the lines."""
    expected = Counter[str]()
    written = []
    for project, title, count in lines:
        daily = project == "en.wikipedia"
        written.append(f"{project} {title} " + (f"1 desktop {count} A" if daily else f"{count} 0"))
        if project.startswith("en"):
            expected[title.replace("%C3%BC", "ü")] += count
    random.shuffle(written)
    cut = random.randrange(len(written) + 1)
    folder = tmp_path_factory.mktemp("views")
    index = index_titles(random.sample(TITLES, len(TITLES)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "BLOCK_BYTES", block)
        patch.setattr(views, "PENDING_ROWS", pending)
        parts = []
        for number, part in enumerate((written[:cut], written[cut:])):
            path = folder / str(number)
            path.write_text("".join(f"{line}\n" for line in part))
            tally = Tally()
            parts.append((read_views(path, index, EN, tally), tally))
    sums, tally = add_views(parts)
    tally.check()
    seen = dict(zip(index.to_pylist(), sums.tolist(), strict=True))
    assert {title: seen[title] for title in TITLES} == {title: expected[title] for title in TITLES}
    assert tally.rows_in == len(lines)
    assert tally.kept + tally.rejected["not_in_dump"] == sum(p.startswith("en") for p, *_ in lines)


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_accounted_for(noise):
    tally = Tally()
    rows = parse_lines(b"en " + noise + b"\n", Codes.of(EN), tally)
    tally.keep(len(rows))
    tally.check()
    assert tally.rows_in == noise.count(b"\n") + 1
