"""What a configuration refers to is there, or the command says so before it does anything."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipelines.report import plan_text
from pipelines.run.config import Config, ConfigError, load_config
from pipelines.run.directory import Run
from pipelines.run.runner import check
from pipelines.stages import DATASET_STAGES, STAGES
from pipelines.stages.selection import known_selection
from tests.shards import save_tiny_model
from workers.base.contracts import embeddings_schema
from workers.embedding.settings import EmbedSettings, model_label

AGENT = "birds-research (+https://birds-research.org/bot)"
EMBEDDINGS = {
    "label_sets": {"colour": {"classes": ["red", "green"]}, "things": {"classes": "CIFAR10"}},
    "attributes": {"photo": {}},
}


@pytest.fixture
def checked(tmp_path):
    """Checks a configuration of a tiny model (32 dimensions) as a command does, at once."""
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    dump = tmp_path / "dump.xml"
    dump.write_text("<mediawiki/>")
    head = tmp_path / "head.safetensors"
    save_file({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, head)
    heads = {"aesthetic": {"path": str(head)}}

    def _checked(steps=(), embeddings=(), **more):
        config = {
            "name": "test",
            "queries": {"dumps": [str(dump)]},
            "pages": {"seeds": ["https://a.example/"], "user_agent": AGENT},
            "images": {"user_agent": AGENT},
            "embeddings": EMBEDDINGS | {"model": model, "heads": heads} | dict(embeddings),
            "selection": {"steps": list(steps)},
            **more,
        }
        run = Run.open(Config.model_validate(config), tmp_path / "run")
        check(run, [*DATASET_STAGES, "model", "scores"])
        return run

    return _checked


def embedded(path, dim=32, drop=(), metadata=None):
    table = embeddings_schema(dim).empty_table().replace_schema_metadata(metadata)
    pq.write_table(table.drop_columns(list(drop)), path)
    return [str(path)]


def test_what_is_there_may_be_referred_to(checked, tmp_path):
    whole = embedded(tmp_path / "whole.parquet")
    images = embedded(tmp_path / "images.parquet", drop=["text_embedding", "similarity"])
    columns = {"url": ["u"], "caption": ["c"], "name": ["n"], "correct": [True]}
    pq.write_table(pa.table(columns), tmp_path / "truth.parquet")
    checked(
        [
            {"filter": "score", "score": "photo", "min": 0.5},
            {"filter": "score", "score": "aesthetic", "min": 0.5},
            {"filter": "label", "set": "colour", "keep": ["red"]},
            {"filter": "label", "set": "things", "drop": ["cat", "dog"]},
            {"filter": "contamination", "embeddings": images},
            {"filter": "contamination", "embeddings": whole, "max_text_similarity": 0.9},
            {"filter": "agreement", "embeddings": whole, "min": 0.3},
            {"filter": "norm_sim", "target": images, "share": 0.2},
            {"filter": "weighted", "scores": {"similarity": 1, "photo": 0.5}, "share": 0.2},
        ],
        report={"truth": str(tmp_path / "truth.parquet")},
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"filter": "score", "score": "foto"},
         r"selection.steps.0.score: 'foto' is not in embeddings.attributes or embeddings.heads; "
         r"there are photo and 1 more"),
        ({"filter": "label", "set": "nosuch"},
         "selection.steps.0.set: 'nosuch' is not in embeddings.label_sets; there are colour"),
        ({"filter": "label", "set": "colour", "keep": ["red", "grean"]},
         r"keep: 'grean' is not in embeddings.label_sets.colour.classes; there are green and 1 m"),
        ({"filter": "label", "set": "things", "drop": ["piano"]},
         "drop: 'piano' is not in embeddings.label_sets.things.classes; there are airplane"),
        ({"filter": "agreement", "embeddings": ["absent*.parquet"], "min": 0.3},
         r"selection.steps.0.embeddings: there is no file absent\*.parquet"),
        ({"filter": "agreement", "embeddings": "NO_TEXTS", "min": 0.3},
         "selection.steps.0.embeddings: .*no_texts.parquet has no column similarity; it has"),
        ({"filter": "contamination", "embeddings": "NO_TEXTS", "max_text_similarity": 0.9},
         "no_texts.parquet has no column text_embedding"),
        ({"filter": "contamination", "embeddings": "WIDE"},
         "image_embedding has 512 dimensions, the embeddings of embeddings.model 32: embed the"),
        ({"filter": "contamination", "embeddings": "LISTS"}, "holds list<.*, not embeddings"),
        ({"filter": "contamination", "embeddings": "TEXT"}, "cannot be read as Parquet"),
        ({"filter": "contamination", "embeddings": "OTHER"},
         "other.parquet was made by the model starter, and embeddings.model is sha256:.*: embed"),
        ({"filter": "norm_sim", "target": "OTHER", "share": 0.2},
         "selection.steps.0.target: .*other.parquet was made by the model starter, and"),
        ({"filter": "norm_sim", "target": "WIDE", "share": 0.2}, "image_embedding has 512 dim"),
        ({"filter": "weighted", "scores": {"foto": 1}, "share": 0.2},
         "selection.steps.0.scores: 'foto' is not in similarity, neg_clip_loss, embeddings.attr"),
    ],
)  # fmt: skip
def test_a_step_that_refers_to_nothing_is_refused(checked, tmp_path, step, message):
    (tmp_path / "text.parquet").write_text("no Parquet")
    lists = pa.table({"image_embedding": [[1.0]]})
    pq.write_table(lists, tmp_path / "lists.parquet")
    files = {
        "NO_TEXTS": embedded(tmp_path / "no_texts.parquet", drop=["text_embedding", "similarity"]),
        "WIDE": embedded(tmp_path / "wide.parquet", dim=512),
        "LISTS": [str(tmp_path / "lists.parquet")],
        "TEXT": [str(tmp_path / "text.parquet")],
        "OTHER": embedded(tmp_path / "other.parquet", metadata={"model": "starter"}),
    }
    step = {
        key: files[value] if isinstance(value, str) and value in files else value
        for key, value in step.items()
    }
    with pytest.raises(ConfigError, match=message):
        checked([step])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"embeddings": {"label_sets": {"a": {"classes": "Imagnet"}}}},
         "embeddings.label_sets.a.classes: no classes are called 'Imagnet'; there are"),
        ({"embeddings": {"label_sets": {"a": {"templates": "Imagnet"}}}},
         "embeddings.label_sets.a.templates: no templates are called 'Imagnet'; there are"),
        ({"embeddings": {"label_sets": {"a": {"templates": ["a photo"]}}}},
         r"embeddings.label_sets.a.templates: templates without {}: \['a photo'\]"),
        ({"embeddings": {"label_sets": {"a": {"templates": ["a {} in {place}"]}}}},
         r"embeddings.label_sets.a.templates: 'a {} in {place}' is no template"),
        ({"embeddings": {"heads": {"wide": {"path": "WIDE"}}}},
         r"embeddings.heads.wide.path: head wide: .* has \[1, 512\]; linear layers from"),
        ({"model": {"held_out": 1.0}}, "model.held_out: 1 leaves no pair to train on"),
        (
            {"model": {"workers": 3}, "ray": {"num_cpus": 2}},
            "model.workers: 3 workers take as many CPUs",
        ),
        ({"scores": {"templates": ["a photo"]}}, "scores.templates: templates without {}"),
        ({"gates": {"image": {}}}, "gates: there is no stage 'image'; stages: queries"),
        ({"services": {"dns": {"command": ["x"], "ready": "http://a/", "stages": ["imges"]}}},
         "services.dns.stages: there is no stage 'imges'"),
        ({"report": {"truth": "absent.parquet"}},
         "report.truth: there is no file absent.parquet, and no service makes it"),
        ({"report": {"truth": "WIDE"}}, "report.truth: .* cannot be read as Parquet"),
        ({"report": {"truth": "TRUTH"}},
         "report.truth: .* has no column name, correct; it has url, caption"),
    ],
)  # fmt: skip
def test_another_reference_to_nothing_is_refused(checked, tmp_path, more, message):
    save_file({"weight": torch.zeros(1, 512)}, tmp_path / "wide.safetensors")
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "truth.parquet")
    for section in (
        more.get("report", {}),
        more.get("embeddings", {}).get("heads", {}).get("wide"),
    ):
        for key, value in (section or {}).items():
            files = {"WIDE": "wide.safetensors", "TRUTH": "truth.parquet"}
            section[key] = str(tmp_path / files[value]) if value in files else value
    with pytest.raises(ConfigError, match=message):
        checked(**more)


def test_a_model_that_is_none_is_named_and_not_the_step_that_asks_for_it(tmp_path):
    model = tmp_path / "none.safetensors"
    model.write_text("no model")
    step = {"filter": "contamination", "embeddings": embedded(tmp_path / "other.parquet")}
    config = {
        "name": "test",
        "queries": "none",
        "embeddings": {"model": str(model)},
        "selection": {"steps": [step]},
    }
    run = Run.open(Config.model_validate(config), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^embeddings.model: "):
        check(run, ["selection"])


KEYS = ["queries", "candidates", "selection", "model"]


def test_a_folder_that_is_moved_with_its_configuration_has_the_same_keys(tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (there / "dump.xml").write_text("<mediawiki/>")
    (there / "list.csv").write_text("url,caption\nhttps://a.example/a.jpg,a\n")
    model = Path(save_tiny_model(there / "tiny.safetensors"))
    embedded(there / "other.parquet")
    text = f"""
name: test
queries: {{dumps: [dump.xml]}}
pairs: {{inputs: [list.csv]}}
model: {{start_from: {model.name}, distillation: {{embeddings: [other.parquet]}}}}
selection: {{steps: [{{filter: agreement, embeddings: [other.parquet], min: 0.3}}]}}
"""
    there_are = {"embeddings": [model], "images": [model]}
    monkeypatch.setattr(Run, "outputs", lambda _, stage: there_are.get(stage, []))

    def keys(folder):
        config = folder / "run.yaml"
        config.write_text(text)
        run = Run.open(load_config(config), tmp_path / "run")
        return [shard.key for name in KEYS for shard in STAGES[name](run).plan()]

    before = keys(there)
    assert len(before) == len(KEYS)
    moved = there.rename(tmp_path / "moved") / model.name
    there_are.update({"embeddings": [moved], "images": [moved]})
    assert keys(tmp_path / "moved") == before


def test_a_service_whose_program_is_not_there_is_refused(checked):
    service = {"command": ["no-such-program"], "ready": "http://a/", "stages": ["pages"]}
    with pytest.raises(ConfigError, match="services.dns.command: there is no program no-such-prog"):
        checked(services={"dns": service})


def test_a_truth_that_a_service_makes_may_be_absent(checked):
    made = "{run_dir}/truth.parquet"
    command = ["python", "-m", "site", "--truth", made]
    service = {"command": command, "ready": "http://a/", "stages": ["pages"]}
    checked(report={"truth": made}, services={"site": service})


@pytest.mark.parametrize(
    ("step", "doubted"),
    [
        ({"min": 0.28}, "ViT-B/32"),  # LAION's
        ({"min": 0.3}, "ViT-B/32"),
        ({"min": 0.31}, None),
        ({"min": 0.28, "model": "starter"}, "starter"),
        ({"min": 0.31, "model": "starter"}, "starter"),
    ],
)
def test_a_threshold_of_another_model_is_doubted(checked, step, doubted):
    run = checked([{"filter": "similarity", **step}])
    own = model_label(run.config.embeddings.model)
    doubts = list(STAGES["selection"](run).doubts())
    assert bool(doubts) == bool(doubted)
    if doubted:
        assert f"steps.0.min: {step['min']} was found for {doubted}" in doubts[0]
        assert own in doubts[0]
        assert doubts[0] in plan_text(run, ["selection"])


def test_whom_a_threshold_was_found_for_changes_no_key(checked):
    of_own = {"filter": "similarity", "min": 0.31}
    runs = [checked([of_own]), checked([of_own | {"model": "starter"}])]
    identities = [run.config.selection.identity() for run in runs]
    assert identities[0] == identities[1]
    assert identities[0]["steps"] == [of_own | {"name": None}]


def test_a_score_that_takes_a_temperature_has_that_of_the_model(checked):
    step = {"filter": "neg_clip_loss", "share": 0.5}
    mixed = {"filter": "weighted", "scores": {"neg_clip_loss": 1}, "share": 0.5}
    run = checked([step, step | {"temperature": 0.5}, mixed])
    steps: Any = known_selection(run.config).steps
    alone, said, within = steps
    assert alone.temperature == within.neg_clip_loss.temperature == pytest.approx(0.07)
    assert said.temperature == 0.5
    published = run.config.model_copy(
        update={"embeddings": EmbedSettings.model_validate({"model": "ViT-B/32"})}
    )
    steps = known_selection(published).steps
    assert steps[0].temperature == 0.01
