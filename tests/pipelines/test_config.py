from pathlib import Path

import pytest

from pipelines.config import ConfigError, digest, load_config
from pipelines.reference import configuration_reference
from workers.settings import resolve_path

MINIMAL = "name: test\nqueries: {dumps: [dump.xml]}\n"


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_defaults_are_those_of_the_paper(write):
    config = load_config(write(MINIMAL))
    assert config.queries.min_count == 100
    assert config.queries.max_queries == 500_000
    assert config.pairs.pairs_per_query == 20_000


def test_overrides_are_yaml_at_a_dotted_key(write):
    config = load_config(write(MINIMAL), ["pairs.shards=7", "pages.seeds=[http://a/]", "seed=3"])
    assert (config.pairs.shards, config.pages.seeds, config.seed) == (7, ("http://a/",), 3)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "pears: {}\n", [], "pears: there is no such key"),
        (
            MINIMAL,
            ["pairs.shard=7"],
            "pairs.shard: there is no such key; there are balance, captions, inputs",
        ),
        (MINIMAL, ["pairs.shards=0"], "pairs.shards: Input should be greater than or equal to 1"),
        (MINIMAL, ["pairs.shards"], "write it as key.sub=value"),
        (MINIMAL, ["name.sub=1"], "'name' holds a value"),
        (MINIMAL, ["seed=[1"], "not valid YAML"),
        ("name: [", [], "is not valid YAML"),
        ("- a list", [], "must hold a mapping"),
        ("", [], "must hold a mapping"),
        ("name: 2026-13-45", [], "config.yaml is not valid YAML: month must be in 1..12"),
        ("[" * 500, [], "config.yaml is not valid YAML: maximum recursion depth"),
        (MINIMAL.encode("utf-16"), [], "config.yaml is not valid YAML: 'utf-8' codec can't decode"),
        (MINIMAL, ["name=2026-13-45"], "'name=2026-13-45': the value is not valid YAML"),
        (MINIMAL, ["name=" + "[" * 500], "the value is not valid YAML"),
        ("name: a/b\nqueries: {}\n", [], "name: String should match pattern"),
    ],
)
def test_what_cannot_be_used_is_refused_by_key(write, text, overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(write(text), overrides)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_the_hash_is_of_the_content_and_not_of_the_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_settings_of_speed_are_not_part_of_the_identity(write):
    slow = load_config(write(MINIMAL), ["images.threads=1"])
    fast = load_config(write(MINIMAL), ["images.threads=64"])
    other = load_config(write(MINIMAL), ["images.jpeg_quality=90"])
    assert slow.images.identity() == fast.images.identity() != other.images.identity()


def test_package_paths_name_files_of_packages():
    assert resolve_path("package:pyarrow/__init__.py").is_file()
    with pytest.raises(FileNotFoundError, match="'no_such_package' is not installed"):
        resolve_path("package:no_such_package/file")


def test_the_reference_page_is_made_from_the_settings_as_they_are():
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == configuration_reference(), (
        "run `python -m pipelines.reference > docs/configuration.md`"
    )
    assert "| `` |" not in page.read_text()
    assert "|  |" not in page.read_text(), "a field has no description"


def test_the_sample_is_a_configuration_like_any_other():
    assert load_config(resolve_path("package:examples/sample/sample.yaml")).name == "sample"
