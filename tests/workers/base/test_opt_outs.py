"""Lists of what is not to be used: what stands on one is found, and nothing else is."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.base.opt_outs import Kind, OptOuts, OptOutSettings, domains_of, normal_entry

SUM = "0123456789abcdef" * 4


def listed(folder, **lists):
    """The lists with these lines."""
    files = {}
    for kind, lines in lists.items():
        path = folder / f"{kind}.txt"
        path.write_text("\n".join([*lines, ""]))
        files[kind] = [str(path)]
    return OptOuts.read(OptOutSettings.model_validate(files))


def of_urls(opt_outs, *urls):
    """Which are listed, by the column and one by one."""
    found = opt_outs.has_urls(pa.array(urls, pa.string())).tolist()
    assert [url is not None and opt_outs.has_url(url) for url in urls] == found
    return found


def test_urls_are_compared_in_their_normal_form(tmp_path):
    opt_outs = listed(
        tmp_path,
        urls=[
            "# what was asked for in 2026",
            "",
            "HTTP://Birds.EXAMPLE:80/a/../heron.jpg#top  # by mail",
            "  https://birds.example/b.jpg?utm_source=x&size=2",
        ],
    )
    assert (
        of_urls(
            opt_outs,
            "http://birds.example/heron.jpg",
            "https://birds.example/heron.jpg",
            "https://birds.example/heron.jpg?fbclid=1",
            "http://birds.example/b.jpg?size=2&gclid=7",
            "http://birds.example/heron.jpg?size=2",
            "http://birds.example/Heron.jpg",
            "http://birds.example:8080/heron.jpg",
            None,
        )
        == [True] * 4 + [False] * 4
    )


def test_a_domain_is_listed_with_all_below_it_and_nothing_beside_it(tmp_path):
    opt_outs = listed(tmp_path, domains=["Birds.example.", "bücher.example", "10.0.0.1"])
    assert (
        of_urls(
            opt_outs,
            "https://birds.example/",
            "http://www.cdn.birds.example:8080/a.jpg",
            "http://xn--bcher-kva.example/a.jpg",
            "http://10.0.0.1:81/a.jpg",
            "http://mybirds.example/a.jpg",
            "http://birds.example.org/a.jpg",
            "http://example/a.jpg",
            "http://a.example/birds.example/a.jpg",
            "http://110.0.0.1/a.jpg",
            "file://birds/a.jpg",
            None,
        )
        == [True] * 4 + [False] * 7
    )


def test_images_are_known_by_their_sum_and_their_hash(tmp_path):
    hashes = ["18446744073709551615", "0xFF"]
    opt_outs = listed(tmp_path, sha256=[SUM.upper()], image_hashes=hashes)
    sums = pa.chunked_array([[SUM, None], [SUM[::-1]]])
    assert opt_outs.has_values(Kind.SHA256, sums).tolist() == [True, False, False]
    hashes = pa.array([255, 2**64 - 1, 0, 254], pa.uint64())
    assert opt_outs.has_values(Kind.IMAGE_HASH, hashes).tolist() == [True, True, False, False]
    assert not opt_outs.has(Kind.PAIR_ID, SUM)


@pytest.mark.parametrize(
    ("kind", "line", "problem"),
    [
        ("urls", "birds.example", "'birds.example' is not an http or https URL"),
        ("urls", "http://user:S3CRET@birds.example/", "is not an http or https URL"),
        ("domains", "https://birds.example/", "is not a domain alone, such as birds.example"),
        ("domains", "*.birds.example", "is not a domain alone"),
        ("domains", "birds.example:8080", "is not a domain alone"),
        ("domains", "co.uk", "'co.uk' is everybody's"),
        ("domains", "com", "'com' is everybody's"),
        ("sha256", SUM[1:], "is not the 64 hexadecimal digits of a sha256"),
        ("image_hashes", "0", "is not a number above 0 of 64 bits"),
        ("image_hashes", str(2**64), "is not a number above 0 of 64 bits"),
    ],
)
def test_what_is_no_entry_is_named_with_file_and_line(tmp_path, kind, line, problem):
    with pytest.raises(ValueError, match="line 3: ") as error:
        listed(tmp_path, **{kind: ["# a list", "", line]})
    assert str(error.value).startswith(f"{tmp_path}/{kind}.txt, line 3: ")
    assert problem in str(error.value)
    assert "S3CRET" not in str(error.value)


def test_the_line_is_right_beyond_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("workers.base.opt_outs._BLOCK_BYTES", 64)
    with pytest.raises(ValueError, match="line 51: "):
        listed(tmp_path, urls=[*(f"http://a.example/{n} # {n}" for n in range(50)), "no"])


def test_a_damaged_or_missing_file_is_named(tmp_path):
    path = tmp_path / "urls.gz"
    path.write_bytes(gzip.compress(b"http://a.example/1\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"urls\.gz, line \d+: the file breaks off"):
        OptOuts.read(OptOutSettings(urls=(str(path),)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        OptOuts.read(OptOutSettings(urls=(str(tmp_path / "nowhere"),)))


def test_a_list_without_an_entry_is_said(tmp_path, caplog):
    assert not listed(tmp_path, urls=["# nobody has asked for anything"])
    assert "urls.txt: the list is empty" in caplog.text


def test_what_is_stored_tells_nobody_what_was_listed(tmp_path):
    opt_outs = listed(tmp_path, urls=["http://birds.example/heron.jpg"], domains=["fish.example"])
    opt_outs.save(tmp_path / "keys.npy")
    stored = (tmp_path / "keys.npy").read_bytes()
    assert b"heron" not in stored
    assert b"fish" not in stored
    again = OptOuts.load(tmp_path / "keys.npy", reason="taken_down")
    assert again.has_url("https://birds.example/heron.jpg")
    assert again.has_url("https://a.fish.example/")
    assert again.reason == "taken_down"
    assert len(stored) < 200


def test_nothing_is_listed_without_a_list():
    assert not OptOuts.read(OptOutSettings())
    assert of_urls(OptOuts.none(), "http://a.example/") == [False]
    assert OptOuts.none().has_urls(pa.array([], pa.string())).tolist() == []


LABELS = st.sampled_from(["a", "b", "c", "example", "b-c"])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(LABELS, min_size=2, max_size=3).map(".".join), max_size=4),
    st.lists(st.lists(LABELS, min_size=1, max_size=4).map(".".join), max_size=8),
)
def test_columns_are_judged_as_each_host_is(domains, hosts):
    keys = {normal_entry(Kind.DOMAIN, domain) for domain in domains}
    opt_outs = OptOuts.of((Kind.DOMAIN, domain) for domain in keys)
    column = pa.chunked_array([[f"https://{host}/x"] for host in hosts], pa.string())
    expected = [any(f".{host}".endswith(f".{domain}") for domain in keys) for host in hosts]
    assert opt_outs.has_urls(column).tolist() == expected
    assert [opt_outs.has_host(host) for host in hosts] == expected


def test_a_host_is_in_every_domain_above_it():
    assert domains_of("a.b.example") == ["a.b.example", "b.example", "example"]


def test_keys_are_sorted_whatever_the_order_of_the_lists(tmp_path):
    one = listed(tmp_path, urls=["http://a.example/1", "http://a.example/2", "http://a.example/1"])
    other = listed(tmp_path, urls=["http://a.example/2", "https://a.example/1"])
    assert np.array_equal(one.keys, other.keys)
