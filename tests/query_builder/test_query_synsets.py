"""WordNet's data files: names, markers, the licence, and lines that are no synsets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_builder.inputs import SYNSET_FILES, find_synsets
from query_builder.synsets import MalformedSynsetError, parse_synset, read_synsets

LICENCE = "  1 This software and database is provided by a made-up licensor  \n  2 and so on.  \n"


def synset(kind: str, *words: str, offset: int = 1740) -> str:
    """A line as WordNet writes it, with a pointer and a gloss that mentions other words."""
    listed = " ".join(f"{word} {number % 16:x}" for number, word in enumerate(words))
    pointers = f"001 ~ {offset + 190:08d} {kind} 0000"
    return f'{offset:08d} 03 {kind} {len(words):02x} {listed} {pointers} | a thing; "x 0 y 0"  \n'


def test_names_of_a_synset():
    assert parse_synset(synset("n", "Eiffel_Tower", "la_Tour_Eiffel")) == [
        "Eiffel Tower",
        "la Tour Eiffel",
    ]
    assert parse_synset(synset("s", "galore(ip)", "outback(a)", "ready_to_hand(p)")) == [
        "galore",
        "outback",
        "ready to hand",
    ]
    assert parse_synset(synset("n", "f(x)", "a", "a")) == ["f(x)", "a"]


def test_number_of_words_is_hexadecimal():
    words = [f"w{i}" for i in range(28)]
    assert parse_synset(synset("v", *words)) == words


def test_a_file_skips_its_licence_and_shows_bad_lines(tmp_path):
    path = tmp_path / "data.noun"
    path.write_text(LICENCE + synset("n", "cat") + "00001741 03 n 02 dog 0\n" + synset("n", "cat"))
    names, tally = read_synsets(str(path))
    tally.check()
    assert names == ["cat", "cat"]
    assert tally.kept == 2
    assert tally.failed == {"malformed_synset": 1}
    (sample,) = tally.samples["malformed_synset"].values()
    assert sample["line"] == 4
    assert sample["error"] == "fewer than 2 words with a lexical id"


@pytest.mark.parametrize("line", ["", "cat", "00001740 03 x 01 cat 0 ", "00001740 03 n 0g cat 0 "])
def test_what_is_no_synset_is_refused(line):
    with pytest.raises(MalformedSynsetError):
        parse_synset(line)


WORDS = st.lists(st.text("aZ9'._/-", min_size=1, max_size=12), min_size=1, max_size=40)


@given(WORDS)
def test_every_name_of_a_synset_is_found(words):
    expected = dict.fromkeys(word.replace("_", " ") for word in words)
    assert parse_synset(synset("n", *words)) == list(expected)


def test_folder_without_the_files_says_what_to_do(tmp_path):
    folder = tmp_path / "wordnet"
    (folder / "dict").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"has no data\.noun, .* WordNet's dict folder"):
        find_synsets(str(folder))
    for name in SYNSET_FILES:
        (folder / "dict" / name).touch()
    with pytest.raises(FileNotFoundError, match=r"it must be .*wordnet/dict"):
        find_synsets(str(folder))
    (folder / "dict" / "data.adv").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no data\.adv;"):
        find_synsets(str(folder / "dict"))


def test_files_are_found_in_a_fixed_order(tmp_path: Path):
    for name in reversed(SYNSET_FILES):
        (tmp_path / name).touch()
    assert [path.name for path in find_synsets(str(tmp_path))] == list(SYNSET_FILES)
