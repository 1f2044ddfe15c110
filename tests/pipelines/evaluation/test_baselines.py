"""Supervised networks beside CLIPs, from the command to the report's figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch.nn import functional as F

from clip_model import _torchvision  # noqa: F401 - before timm

# isort: split
import timm
from pydantic import ValidationError

from clip_model.image_towers import load_backbone
from clip_model.preprocess import image_bytes_transform
from clip_model.registry import BackboneName
from clip_model.tensor_files import write_safetensors
from pipelines.evaluate import main
from pipelines.evaluation.baselines import beside_baselines
from pipelines.evaluation.candidates import labelled
from pipelines.evaluation.settings import ProtocolSettings
from tests.shards import jpeg, save_tiny_model, write_images
from workers.embedding.embedder import Embedder
from workers.embedding.labels import LabelError
from workers.embedding.settings import EmbedSettings, InputSettings, TowerSettings, model_label

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    write_safetensors(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def judged(weights, tmp_path_factory):
    """A CLIP and a network of timm on two sets of colours, one of them darker, and on captions."""
    folder = tmp_path_factory.mktemp("judged")
    for place, factor in (("light", 1.0), ("dark", 0.5)):
        for name, colour in COLOURS.items():
            (folder / place / name).mkdir(parents=True)
            for number in range(12):
                shade = tuple(min(255, int(factor * level + 5 * number)) for level in colour)
                (folder / place / name / f"{number}.jpg").write_bytes(jpeg(shade))
    rows = [{"image": jpeg(colour), "caption": name} for name, colour in COLOURS.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    pairs = {"path": "pairs.parquet", "image": "image", "caption": "caption"}
    sets = {
        "light": {"format": "folder", "test": "light"},
        "dark": {"format": "folder", "test": "dark", "metric": "top5"},
        "pairs": {"format": "parquet", "task": "retrieval", "test": pairs},
    }
    protocols = {"shots": [1, 2], "seeds": [0, 1], "bootstrap": 200}
    tree = {"sets": sets, "protocols": protocols, "robustness": {"light": "dark"}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    clip = save_tiny_model(folder / "clip.safetensors")
    models = ["--model", clip, "--model", f"net=timm:test_resnet={weights}"]
    assert main([*models, "--suite", str(folder / "suite.yaml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def results(out, **wanted):
    return [
        one
        for one in json.loads((out / "results.json").read_text())["results"]
        if all(one.get(key) == value for key, value in wanted.items())
    ]


def test_a_network_has_probes_and_no_zero_shot(judged):
    (found,) = results(judged, model="net", set="light", task="classification")
    assert found["zero_shot"] is found["best_prompts"] is None
    assert found["reason"] == "the model knows no text"
    assert found["probe"]["zero_shot"] is found["probe"]["difference"] is None
    assert found["probe"]["value"] > 0.9  # colours are easy, even for random weights
    assert list(found["few_shot"]) == ["1", "2"]
    assert found["equal_shots"]["value"] is None
    assert found["equal_shots"]["reason"] == "the model knows no text"
    (pairs,) = results(judged, model="net", set="pairs")
    assert pairs["image_to_text"] is pairs["text_to_image"] is None
    assert (pairs["reason"], pairs["pictures"]) == ("the model knows no text", 3)
    (apart,) = results(judged, model="net", task="robustness")
    assert apart["difference"]["value"] is None
    assert apart["reason"]
    (whole,) = results(judged, model="clip", task="robustness")
    assert whole["difference"]["value"] is not None


def test_its_features_are_those_of_the_network(judged, weights):
    (path,) = (judged / "features" / "net").glob("light.test*.parquet")
    table = pq.read_table(path)
    (pictures,) = (judged / "sets").glob("light.test*.parquet")
    backbone = load_backbone(BackboneName("timm", "test_resnet", str(weights)))
    decode = image_bytes_transform(backbone.preprocessing)
    files = pq.read_table(pictures, columns=["id", "image"]).to_pylist()
    assert table["pair_id"].to_pylist() == [row["id"] for row in files]
    with torch.inference_mode():
        levels = torch.stack([decode(row["image"]) for row in files])
        expected = F.normalize(backbone.encode_image(levels), dim=-1)
    found = torch.tensor(table["image_embedding"].to_pylist())
    assert (found - expected).abs().max() < 1e-5
    named = table.schema.metadata[b"model"].decode()
    assert named.startswith("timm:test_resnet sha256:")


def test_each_zero_shot_stands_beside_the_networks_probe(judged):
    """On the pictures that both have judged, by hand."""
    (beside,) = results(judged, task="baseline", set="light")
    assert (beside["model"], beside["baseline"]) == ("clip", "net")
    tables = {
        name: pq.read_table(judged / "results" / f"{name}.light.parquet")
        for name in ("clip", "net")
    }
    probe = tables["net"]["probe"].to_numpy()
    labels = np.array([some[0] for some in tables["net"]["labels"].to_pylist()])
    plain = tables["clip"]["ensemble"].to_numpy()
    rows = probe >= 0
    assert 0 < rows.sum() < len(rows)
    assert beside["pictures"] == rows.sum()
    expected = (plain == labels)[rows].mean() - (probe == labels)[rows].mean()
    assert beside["difference"]["value"] == pytest.approx(expected)
    low, high = beside["difference"]["interval"]
    assert low <= expected <= high
    # Of what only the values are known of: as if the pictures had been others.
    (unpaired,) = results(judged, task="baseline", set="dark")
    one, other = unpaired["zero_shot"], unpaired["probe"]
    assert unpaired["difference"]["value"] == pytest.approx(one["value"] - other["value"])
    low = unpaired["difference"]["interval"][0]
    below = math.hypot(one["value"] - one["interval"][0], other["interval"][1] - other["value"])
    assert low == pytest.approx(one["value"] - other["value"] - below)


def test_the_report_and_the_figures_say_what_they_can(judged):
    report = (judged / "report.md").read_text()
    assert (
        "**net**: 160 of 168 px, centre, bilinear, JPEGs the fast way. It knows no text" in report
    )
    assert "## Zero-shot beside supervised baselines" in report
    assert "| pairs | net |" not in report
    assert "| light | net | – |" in report  # few-shot without zero-shot
    rows = pq.read_table(judged / "figures" / "zero_shot_minus_probe.parquet").to_pylist()
    assert {(row["model"], row["kind"]) for row in rows} == {
        ("clip", "probe on its own features"),
        ("clip", "probe on net"),
    }
    few = pq.read_table(judged / "figures" / "few_shot.parquet").to_pylist()
    assert [(row["model"], row["shots"]) for row in few] == [
        *(("clip", shots) for shots in (0, 1, 2)),
        *(("net", shots) for shots in (1, 2)),
    ]
    compute = pq.read_table(judged / "figures" / "accuracy_by_compute.parquet").to_pylist()
    assert {(row["model"], row["kind"]) for row in compute} == {
        ("clip", "linear probe"),
        ("net", "linear probe"),
    }
    points = pq.read_table(judged / "figures" / "zero_shot_and_probe.parquet")["model"]
    assert set(points.to_pylist()) == {"clip"}
    (about,) = [json.loads((judged / "results.json").read_text())["info"]["models"]["net"]]
    assert about["gflops"] > 0
    assert about["parameters"] > 0


def test_networks_alone_are_judged_too(weights, judged, tmp_path):
    light = str(judged.parent / "light")
    model = f"timm:test_resnet={weights}"
    assert main(["--model", model, "--data", light, "--out", str(tmp_path)]) == 0
    (found,) = results(tmp_path)
    assert (found["model"], found["zero_shot"]) == ("test_resnet", None)
    assert "## Linear probe" in (tmp_path / "report.md").read_text()


def test_nothing_is_beside_what_has_no_probe():
    probe = {"value": 0.5, "interval": [0.4, 0.6], "pictures": 9}
    names = {"task": "classification", "set": "it", "metric": "auc"}
    clip = {**names, "model": "clip", "zero_shot": {"bare": {}}, "best_prompts": "bare"}
    net = {**names, "model": "net", "zero_shot": None, "probe": None}
    assert beside_baselines(None, [{**clip, "probe": None}, net], ProtocolSettings()) == []  # type: ignore[arg-type]
    unknown = {"value": None, "interval": [None, None]}
    of_clip = {**clip, "probe": {**probe, "zero_shot": unknown}}
    (beside,) = beside_baselines(None, [of_clip, {**net, "probe": probe}], ProtocolSettings())  # type: ignore[arg-type]
    assert beside["difference"] == unknown


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("timm:test_resnet", "NAME=WEIGHTS"),
        ("it=timm:test_resnet", "NAME=WEIGHTS"),
        ("timm:test_resnet=absent.pth", "there is no file"),
        ("timm:nosuch=suite.yaml", "nosuch"),
    ],
)
def test_a_network_that_cannot_be_had_is_refused_in_a_line(
    model, said, judged, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(judged.parent)
    command = ["--model", model, "--data", "light", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


def test_a_run_needs_a_model_that_knows_text(weights, tmp_path):
    text = f"timm:test_resnet={weights}"
    with pytest.raises(ValidationError, match="knows no text"):
        EmbedSettings(model=text)
    settings = TowerSettings(model=text)
    assert model_label(settings.model).startswith("timm:test_resnet sha256:")
    write_images([("red", jpeg((200, 0, 0)))], tmp_path / "a.parquet")
    embedder = Embedder(settings)
    with pytest.raises(RuntimeError, match="parts: images"):
        embedder.embed_shard(tmp_path / "a.parquet", tmp_path / "b.parquet")
    images = InputSettings(parts="images")
    (tally,) = embedder.embed_shard(tmp_path / "a.parquet", tmp_path / "b.parquet", images).values()
    assert tally.kept == 1
    with pytest.raises(LabelError, match="knows no text"):
        Embedder(TowerSettings(model=text, attributes={"photo": {}}))  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "label", "name"),
    [
        ("starter", "starter", "starter"),
        ("a=starter", "a", "starter"),
        ("timm:resnet50.a1_in1k=w.pth", "resnet50.a1_in1k", "timm:resnet50.a1_in1k=w.pth"),
        ("rn=torchvision:resnet50=x/w=1.pth", "rn", "torchvision:resnet50=x/w=1.pth"),
        ("x=timm:resnet50", "x", "timm:resnet50"),
        ("epoch=3=model.pt", "epoch=3", "model.pt"),
    ],
)
def test_a_model_may_have_a_label(text, label, name):
    assert labelled(text) == (label, name)
