import datetime
import math
import os
import re
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from pipelines.embed import embed_settings, parser
from pipelines.reference import configuration_reference
from pipelines.run.config import Config, ConfigError, build_settings, digest, load_config
from pipelines.run.config_errors import filter_of, settings_in
from pipelines.run.yaml_text import as_yaml
from query_builder.settings import QuerySettings
from workers.base.settings import resolve_path
from workers.selection.settings import SelectionSettings

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
    queries = QuerySettings.model_validate(config.queries)
    assert (queries.min_count, queries.max_queries) == (100, 500_000)
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
        ("name: test", [], "queries: say what captions are matched with: {dumps: ["),
        (MINIMAL, ["pairs.shards=0"], "pairs.shards: must be at least 1 (got 0)"),
        (MINIMAL, ["pairs.shards"], "write it as key.sub=value"),
        (MINIMAL, ["name.sub=1"], "'name' holds a value"),
        (MINIMAL, ["seed=[1"], "not valid YAML"),
        ("name: [", [], "is not valid YAML"),
        ("- a list", [], "must hold a mapping"),
        ("", [], "must hold a mapping"),
        ("name: 2026-13-45", [], "config.yaml is not valid YAML: month must be in 1..12"),
        ("[" * 500, [], "config.yaml is not valid YAML: maximum recursion depth"),
        (MINIMAL.encode("utf-16-le"), [], "config.yaml is not valid YAML: line 1, character 2: "),
        (MINIMAL.encode("utf-16")[:-1], [], "this is no text in UTF-16; save the file as UTF-8"),
        (
            f"{MINIMAL}# caf\xe9".encode("latin-1"),
            [],
            "line 3, character 6: this is no text in UTF-8; save the file as UTF-8",
        ),
        (MINIMAL + "seed: 1\nseed: 2\n", [], "line 4, column 1: the key 'seed' stands there twice"),
        (MINIMAL, ["pages={delay: 1, delay: 2}"], "the value is not valid YAML"),
        (MINIMAL, ["name=2026-13-45"], "'name=2026-13-45': the value is not valid YAML"),
        (MINIMAL, ["name=" + "[" * 500], "the value is not valid YAML"),
        (
            "name: a/b\nqueries: {}\n",
            [],
            "name: must be made of the characters A-Za-z0-9._- (got a/b)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_key(write, text, overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(write(text), overrides)
    assert message in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_may_be_in_any_encoding_that_it_says_itself(write, encoding):
    text = f"{MINIMAL}pages: {{seeds: ['https://straße.example/']}}\n"
    assert load_config(write(text.encode(encoding))).pages.seeds == ("https://straße.example/",)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pages.seeds=https://a/", "pages.seeds: must be a list (got 'https://a/'); write it as ["),
        ("queries=", "queries: say what captions are matched with: {dumps: [enwiki-latest-pages-a"),
        ("queries=all", "{list: my_queries.txt}, or none, which keeps them all"),
        ("queries=[a]", "queries: must be a mapping of keys to values (got [a])"),
        ("queries.dumpz=[a]", "queries.dumpz: there is no such key; there are bigrams, dumps,"),
        ("queries.list=a.txt", "queries: a list is given, and dumps, too: name one or the other"),
        ("pages=[1]", "pages: must be a mapping of keys to values (got [1])"),
        ("name=2026", "name: must be text (got 2026); write it in quotes"),
        ("images.formats=[EPS]", "images.formats.0: must be AVIF, BMP, DIB, GIF, ICO, JPEG"),
        ("images.formats=PNG", "images.formats: must be a list (got PNG); write it as [PNG]"),
        ("images.formats=[]", "images.formats: must be a list of at least 1 (got [])"),
        ("images.resize_mode=no", "must be no, border, keep_ratio, keep_ratio_largest or center_c"),
        ("images.resize_mode=no", "(got false); write it in quotes: without them YAML reads no"),
        ("pairs.captions.redact.phone_regions=[NO]", "phone_regions.0: must be text (got false)"),
        ("pairs.captions.redact.phone_regions=[UK]",
         "pairs.captions.redact.phone_regions.0: there is no region UK; write a country's code in "
         "ISO 3166: it is GB"),
        ("pairs.captions.redact.phone_regions=[de]", "it is DE"),
        ("pairs.captions.redact.phone_regions=[Germany]", "such as US, GB or DE"),
        ("pairs.list_columns=[a]", "pairs.list_columns.1: is missing"),
        ("pairs.shards=none", "(got none); YAML's word for none is null"),
        ("images.timeout=.inf", "images.timeout: must be a finite number (got .inf)"),
        ("images.timeout=2026-01-01", "images.timeout: must be a number (got 2026-01-01)"),
        ("pairs.root_url=birds.example", "pairs.root_url: 'birds.example' is no address of the w"),
        ("pages.allow_private_hosts=['http://a/']", "hosts.0: 'http://a/' is no host"),
        ("images.allow_private_hosts=['http://a/']", "hosts.0: 'http://a/' is no host"),
        ("services={a: {command: [x], ready: up, stages: [pages]}}", "services.a.ready: 'up' is"),
        ("selection.steps=[{filter: score, score: a, min: x}]", "selection.steps.0.min: must be a"),
        ("selection.steps=[{filter: score}]", "selection.steps.0.score: is missing"),
        ("selection.steps=[{filter: nosuch}]", "steps.0.filter: must be one of similarity, top_"),
        ("selection.steps=[{min: 1}]", "selection.steps.0.filter: is missing"),
        ("embeddings.label_sets={x: {classes: [1]}}", "label_sets.x.classes.0: must be text"),
        ("embeddings.label_sets={x: {classes: []}}", "x.classes: must be a list of at least 1"),
        ("embeddings.attributes={a-b: {}}", "embeddings.attributes.a-b: must be made of the"),
        ("queries.views=https://u:secret@h/x", "(got 'https://h/x')"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_terms_of_yaml(write, setting, message):
    with pytest.raises(ConfigError) as error:
        load_config(write(MINIMAL), [setting])
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 2


WRONG = [[[]], {"a": {}}, "none", "-", 1.5, -(10**30), True, None, math.inf, datetime.date.min]
PYTHON = re.compile(
    r"Input|should|tuple|dict|instance|None|True|False|datetime|\binf\b|\bstr|int\b|error|\[key\]"
)


def keys(model, prefix=""):
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", name
        inside = [kind for kind in settings_in(field.annotation) if not filter_of(kind)]
        for kind in inside:
            yield from keys(kind, f"{prefix}{name}." + "x." * bool(get_args(field.annotation)))


def refusal(override):
    """What is said of an override, without the values that it shows; "" if it can be used."""
    try:
        build_settings(Config, {"name": "test", "queries": {}}, [override], "it")
    except ConfigError as error:
        return re.sub(r"\(got .*?\)", "", str(error))
    return ""


def test_no_message_speaks_of_python():
    """Every key of the configuration, with values of all kinds."""
    overrides = [f"{key}={as_yaml(value)}" for key, _ in keys(Config) for value in WRONG]
    for step in settings_in(SelectionSettings.model_fields["steps"].annotation):
        for name, value in product(step.model_fields, WRONG):
            tree = {"filter": filter_of(step), name: value}
            overrides.append(f"selection.steps=[{as_yaml(tree)}]")
    said = dict(zip(overrides, map(refusal, overrides), strict=True))
    assert sum(map(bool, said.values())) > 1_000
    assert {key: text for key, text in said.items() if PYTHON.search(text)} == {}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


LOCATED = [
    ("queries.dumps", "a.xml"),
    ("queries.views", "views/*.gz"),
    ("pairs.inputs", "../lists[1]/*.csv"),
    ("selection.steps", "embeddings"),
    ("queries.wordnet", "wordnet"),
    ("embeddings.model", "clip.safetensors"),
    ("model.start_from", "sub/clip.safetensors"),
    ("model.distillation", "teacher/*.parquet"),
    ("embeddings.heads", "head.safetensors"),
    ("report.truth", "truth.parquet"),
    ("queries.list", "queries.txt"),
    ("images.local_roots", "photos"),
]
ELSEWHERE = ["package:a/b", "s3://a/b", "https://a/b", "{run_dir}/a", "/a/b"]
NAMES = {"embeddings.model": ["starter", "ViT-B/32"], "model.start_from": ["starter", "RN50x4"]}


def setting_of(key, path):
    """The value of a key that names a path somewhere."""
    if key == "selection.steps":
        return [{"filter": "agreement", "embeddings": [path], "min": 0.3}]
    if key == "model.distillation":
        return {"embeddings": [path]}
    if key == "images.local_roots":
        return {"aesthetic": path}
    if key == "embeddings.heads":
        return {"aesthetic": {"path": path}}
    return [path] if key in ("queries.dumps", "queries.views", "pairs.inputs") else path


def configured(config, key):
    """The path in the value of a key."""
    section, name = key.split(".")
    value = getattr(getattr(config, section), name)
    value = value["aesthetic"] if isinstance(value, dict) else value
    value = value.path if key == "embeddings.heads" else value
    value = value[0] if isinstance(value, tuple) else value
    return value.embeddings[0] if key in ("selection.steps", "model.distillation") else value


@pytest.mark.parametrize(("key", "path"), LOCATED)
def test_paths_are_relative_to_what_says_them(write, tmp_path, monkeypatch, key, path):
    there = tmp_path / "there"
    there.mkdir()
    section, name = key.split(".")
    minimal = "name: test\nqueries: {}\n"

    def said(text):
        """By the file, and by the command line."""
        value = setting_of(key, text)
        tree = {"name": "test", "queries": {}} | {section: {name: value}}
        yield configured(load_config(write(as_yaml(tree))), key)
        yield configured(load_config(write(minimal), [f"{key}={as_yaml(value)}"]), key)

    monkeypatch.chdir(there)
    assert list(said(path)) == [str(tmp_path / path), str(there / path)]
    for other in [*ELSEWHERE, *NAMES.get(key, [])]:
        assert list(said(other)) == [other, other]
    monkeypatch.setenv("HOME", "/home/me")
    assert list(said("~/a")) == ["/home/me/a"] * 2
    for nowhere, message in [("''", "names no file"), ("~nobody-here/a", "~nobody-here/a: ")]:
        with pytest.raises(ConfigError, match=message):
            load_config(
                write(MINIMAL), [f"{key}={as_yaml(setting_of(key, nowhere.strip(chr(39))))}"]
            )


@pytest.mark.parametrize("library", ["open_clip", "hf"])
def test_folders_of_other_libraries_models_are_relative_too(write, tmp_path, monkeypatch, library):
    (tmp_path / "m").mkdir()
    minimal = "name: test\nqueries: {}\n"
    monkeypatch.chdir("/")
    config = load_config(write(f"{minimal}embeddings: {{model: '{library}:m'}}\n"))
    assert config.embeddings.model == f"{library}:{tmp_path / 'm'}"
    monkeypatch.chdir(tmp_path)
    config = load_config(write(minimal), [f"embeddings.model={library}:m"])
    assert config.embeddings.model == f"{library}:{tmp_path / 'm'}"
    with pytest.raises(ConfigError, match="not be trained here"):
        load_config(write(minimal), [f"model.start_from={library}:m"])


def test_weights_and_published_names_of_other_libraries(write, tmp_path):
    minimal = "name: test\nqueries: {}\n"
    for said, model in [
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        ("hf:a/b@c", "hf:a/b@c"),
        ("open_clip:ViT-B-32=w.pt", f"open_clip:ViT-B-32={tmp_path / 'w.pt'}"),
    ]:
        config = load_config(write(f"{minimal}embeddings: {{model: '{said}'}}\n"))
        assert config.embeddings.model == model
    with pytest.raises(ConfigError, match="write open_clip:NAME/TAG"):
        load_config(write(f"{minimal}embeddings: {{model: 'open_clip:ViT-B-32'}}\n"))


def test_the_file_of_the_embed_command_is_a_configuration_too(write, tmp_path, monkeypatch):
    file = write("model: clip.safetensors\nheads: {a: {path: head.safetensors}}\n")
    monkeypatch.chdir("/")
    for options, model in [([], tmp_path / "clip.safetensors"), (["--model", "b.pt"], "/b.pt")]:
        arguments = ["x.tar", "--out", "out", "--config", str(file), *options]
        settings = embed_settings(parser().parse_args(arguments))
        assert settings.model == str(model)
        assert settings.heads["a"].path == str(tmp_path / "head.safetensors")


def test_a_configuration_from_a_pipe_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, written = os.pipe()
    os.write(written, MINIMAL.encode())
    os.close(written)
    try:
        config = load_config(Path(f"/dev/fd/{read}"))
    finally:
        os.close(read)
    assert config.queries == QuerySettings(dumps=(str(tmp_path / "dump.xml"),))


def test_the_hash_is_of_the_content_and_not_of_the_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_settings_of_speed_are_not_part_of_the_identity(write):
    slow = load_config(write(MINIMAL), ["images.connections=1"])
    fast = load_config(write(MINIMAL), ["images.connections=64"])
    other = load_config(write(MINIMAL), ["images.jpeg_quality=90"])
    assert slow.images.identity() == fast.images.identity() != other.images.identity()


def test_formats_are_part_of_the_identity_in_any_order(write):
    first, same, other = (
        load_config(write(MINIMAL), [f"images.formats={formats}"]).images.identity()
        for formats in ("[PNG, TIFF]", "[TIFF, PNG, TIFF]", "[PNG]")
    )
    assert first == same != other


def test_package_paths_name_files_of_packages():
    assert resolve_path("package:pyarrow/__init__.py").is_file()
    with pytest.raises(FileNotFoundError, match="'no_such_package' is not installed"):
        resolve_path("package:no_such_package/file")


def test_the_reference_page_is_made_from_the_settings_as_they_are():
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert page.read_text() == configuration_reference(), (
        "run `python -m pipelines.reference > docs/configuration.md`"
    )
    assert "| `` |" not in page.read_text()
    assert "|  |" not in page.read_text(), "a field has no description"


def test_the_sample_is_a_configuration_like_any_other():
    assert load_config(resolve_path("package:examples/sample/sample.yaml")).name == "sample"
