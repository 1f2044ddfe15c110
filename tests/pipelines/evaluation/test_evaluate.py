"""The command on models of its own: data sets to report, resumed, cached, refused."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch.nn import functional as F

import clip_model
from clip_model.dual_encoders import load_dual_encoder
from clip_model.preprocess import normalised
from pipelines.evaluate import main
from pipelines.evaluation.command import averages_of
from pipelines.evaluation.sources.datacomp import DATACOMP
from pipelines.evaluation.suite import Suite
from pipelines.run.receipts import Receipts, Side
from tests.dual_encoder_models import named, save_open_clip
from tests.shards import jpeg, save_tiny_model

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def shade(colour, number):
    return tuple(min(255, level + 7 * (number % 8)) for level in colour)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save_tiny_model(folder / f"m{seed}.safetensors", seed) for seed in range(2)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 8 pictures of each of three colours."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(8):
            (folder / name / f"{number}.jpg").write_bytes(jpeg(shade(colour, number)))
    return folder


def results(out):
    return json.loads((out / "results.json").read_text())["results"]


def test_a_folder_of_pictures_is_all_it_takes(models, pictures, tmp_path, capsys):
    assert main(["--model", *models, "--data", str(pictures), "--out", str(tmp_path)]) == 0
    assert "m0" in capsys.readouterr().out
    found = results(tmp_path)
    assert [(one["model"], one["set"], one["pictures"]) for one in found] == [
        ("m0", "colours", 24),
        ("m1", "colours", 24),
    ]
    model, _ = clip_model.load(models[0])
    files = sorted(pictures.glob("*/*.jpg"))
    levels = torch.stack(
        [clip_model.preprocess.image_bytes_transform(32)(path.read_bytes()) for path in files]
    )
    classes = sorted(COLOURS)
    with torch.inference_mode():
        features = F.normalize(model.encode_image(normalised(levels)), dim=-1)
    classifier = clip_model.zero_shot_classifier(model, classes, "ImageNet")
    right = (features @ classifier.t()).argmax(dim=-1) == torch.tensor(
        [classes.index(path.parent.name) for path in files]
    )
    assert found[0]["zero_shot"]["ensemble"]["value"] == pytest.approx(right.double().mean().item())
    assert found[0]["probe_features"] == "hidden"
    hidden = pq.read_table(*(tmp_path / "features" / "m0").glob("*.parquet"))["image_hidden"]
    before = clip_model.image_features(model, normalised(levels), projected=False)
    assert (torch.tensor(hidden.to_pylist()) - before).abs().max() < 1e-4
    table = pq.read_table(tmp_path / "results" / "m0.colours.parquet")
    assert table["id"].to_pylist() == [f"{path.parent.name}/{path.name}" for path in files]
    assert (tmp_path / "report.md").is_file()


def test_a_dual_encoder_of_another_library_is_judged_as_a_clip(pictures, tmp_path):
    model = save_open_clip("ViT-B-16-SigLIP", tmp_path / "siglip")
    out = tmp_path / "out"
    command = ["--model", model, f"sig={model}", "--data", str(pictures), "--out", str(out)]
    assert main(command) == 0
    one, other = results(out)
    assert (one["model"], other["model"]) == ("siglip", "sig")
    assert one["zero_shot"] == other["zero_shot"]
    encoder = load_dual_encoder(named(model))
    transform = clip_model.image_bytes_transform(encoder.preprocessing)
    files = sorted(pictures.glob("*/*.jpg"))
    with torch.inference_mode():
        levels = torch.stack([transform(path.read_bytes()) for path in files])
        features = F.normalize(encoder.encode_image(levels), dim=-1)
    classifier = clip_model.zero_shot_classifier(encoder, sorted(COLOURS), "ImageNet")
    right = (features @ classifier.t()).argmax(dim=-1) == torch.tensor(
        [sorted(COLOURS).index(path.parent.name) for path in files]
    )
    assert one["zero_shot"]["ensemble"]["value"] == pytest.approx(right.double().mean().item())
    assert "160 px, squashed, bicubic, JPEGs the fast way" in (out / "report.md").read_text()


def test_one_model_more_costs_one_model(models, pictures, tmp_path, caplog):
    command = ["--data", str(pictures), "--out", str(tmp_path)]
    assert main(["--model", models[0], *command]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/**/m0*") if path.is_file()}
    caplog.clear()
    assert main(["--model", *models, *command]) == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert before == after
    assert len(before) >= 3
    assert [one["model"] for one in results(tmp_path)] == ["m0", "m1"]
    assert main(["--model", models[1], *command]) == 0
    assert [one["model"] for one in results(tmp_path)] == ["m1"]
    assert Receipts(tmp_path / "results").get("m0.colours")


def test_the_status_says_what_is_done_and_does_nothing(models, pictures, tmp_path, capsys):
    out = tmp_path / "out"

    def status():
        capsys.readouterr()
        before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
        command = ["--model", *models, "--data", str(pictures), "--out", str(out), "--status"]
        assert main(command) == 0
        assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
        head, _, *lines = capsys.readouterr().out.splitlines()
        assert head == f"status of {out}"
        return dict(re.findall(r"^  (.+?) +(\d.+|to be .+)$", "\n".join(lines), re.MULTILINE))

    assert status() == {
        "sets": "1 shards to do, 0 done",
        "features/m0": "to be planned once sets is complete",
        "features/m1": "to be planned once sets is complete",
        "results of m0": "to be planned once sets, features/m0 is complete",
        "results of m1": "to be planned once sets, features/m1 is complete",
    }
    done = "0 shards to do, 1 done"
    assert main(["--model", models[0], "--data", str(pictures), "--out", str(out)]) == 0
    one_more = {
        "sets": done,
        "features/m0": done,
        "features/m1": "1 shards to do, 0 done",
        "results of m0": done,
        "results of m1": "to be planned once features/m1 is complete",
    }
    assert status() == one_more
    error = Receipts(out / "features" / "m1").record(Side.ERRORS, "colours.test-00000")
    error.parent.mkdir(parents=True, exist_ok=True)
    error.write_text("no memory")
    one_more["features/m1"] += f"; 1 failed when last tried, see {error.parent}"
    assert status() == one_more
    assert main(["--model", *models, "--data", str(pictures), "--out", str(out)]) == 0
    assert set(status().values()) == {done}


def test_a_checkpoint_that_has_changed_is_judged_again(models, pictures, tmp_path):
    path = tmp_path / "model.safetensors"
    values = []
    for checkpoint in models:
        path.write_bytes(Path(checkpoint).read_bytes())
        assert (
            main(["--model", f"it={path}", "--data", str(pictures), "--out", str(tmp_path / "o")])
            == 0
        )
        features = pq.read_table(*(tmp_path / "o" / "features" / "it").glob("*.parquet"))
        values.append(features["image_embedding"].to_pylist())
    assert values[0] != values[1]


def test_a_result_is_of_its_texts_settings_and_pictures(models, pictures, tmp_path):
    """Each is changed alone, under the same names: none is taken for what was judged before."""
    colours = tmp_path / "colours"
    shutil.copytree(pictures, colours)
    checkpoint = tmp_path / "it.safetensors"
    shutil.copyfile(models[0], checkpoint)

    def judged(*changed):
        command = ["--model", str(checkpoint), "--data", str(colours), "--out", str(tmp_path / "o")]
        assert main([*command, "--set", "protocols.probe=false", *changed]) == 0
        (features,) = (tmp_path / "o" / "features" / "it").glob("*.parquet")
        (result,) = results(tmp_path / "o")
        predicted = pq.read_table(tmp_path / "o" / "results" / "it.colours.parquet")
        return features.stat().st_mtime_ns, result, predicted["ensemble"].to_pylist()

    embedded, plain, answers = judged()
    few = "protocols.prompts=[bare, ensemble]"
    since, fewer_prompts, same_answers = judged("--set", few)
    assert (since, same_answers) == (embedded, answers)
    assert (len(plain["zero_shot"]), len(fewer_prompts["zero_shot"])) == (3, 2)
    model, _ = clip_model.load(str(checkpoint))
    with torch.no_grad():
        model.text_projection.neg_()  # images stay what they are
    clip_model.save(model, checkpoint)
    _, _, other_answers = judged("--set", few)
    assert other_answers != answers
    (colours / "red" / "0.jpg").unlink()
    _, without_one, _ = judged("--set", few)
    assert (plain["pictures"], without_one["pictures"]) == (24, 23)


def suite(folder, **sets):
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"sets": sets}, sort_keys=False))
    return ["--suite", str(path), "--out", str(folder / "out")]


def test_a_suite_has_several_sets_and_says_how_they_differ(models, pictures, tmp_path):
    given = {"format": "folder", "test": str(pictures)}
    other = tmp_path / "other"
    for name, colour in COLOURS.items():
        (other / name).mkdir(parents=True)
        for number in range(4):
            darker = tuple(level // 2 for level in shade(colour, number))
            (other / name / f"{number}.jpg").write_bytes(jpeg(darker))
    options = suite(tmp_path, light=given, dark={"format": "folder", "test": "other"})
    tree = yaml.safe_load((tmp_path / "suite.yaml").read_text())
    tree["robustness"] = {"light": "dark"}
    tree["protocols"] = {"prompts": ["bare", "own"], "shots": [1, 2], "seeds": [0, 1]}
    tree["sets"]["light"]["templates"] = ["a {} picture"]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main(["--model", models[0], *options]) == 0
    light, dark, difference = results(tmp_path / "out")
    assert list(light["zero_shot"]) == ["bare", "own"]
    assert list(dark["zero_shot"]) == ["bare"]
    assert list(light["few_shot"]) == ["1", "2"]
    assert difference["task"] == "robustness"
    assert difference["difference"]["value"] == pytest.approx(
        light["zero_shot"][light["best_prompts"]]["top1"]
        - dark["zero_shot"][dark["best_prompts"]]["top1"]
    )


def test_pictures_that_cannot_be_read_are_counted_and_said(models, pictures, tmp_path):
    folder = tmp_path / "data"
    for path in pictures.glob("*/*.jpg"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    (folder / "red" / "0.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main(["--model", models[0], "--data", str(folder), "--out", str(out)]) == 0
    (found,) = results(out)
    assert found["pictures"] == 23
    assert any("1 picture" in warning for warning in found["warnings"])
    receipt = Receipts(out / "results").get("m0.data")
    assert receipt
    assert receipt.rows["pictures"] == {
        "in": 24,
        "kept": 23,
        "rejected": {},
        "failed": {"not_embedded": 1},
    }


def test_a_set_of_which_no_picture_is_of_use_is_said_and_never_left_out(
    models, pictures, tmp_path, capsys
):
    """Empty files are known when the set is written, damaged ones when it is embedded."""
    for name, content in (("empty", b""), ("damaged", b"no picture")):
        folder = tmp_path / name / "red"
        folder.mkdir(parents=True)
        (folder / "0.jpg").write_bytes(content)
        sets = {
            "good": {"format": "folder", "test": str(pictures)},
            name: {"format": "folder", "test": str(folder.parent)},
        }
        options = suite(folder.parent, **sets)
        assert main(["--model", models[0], *options]) == 3
        assert f"{name}" in capsys.readouterr().err
        assert not (folder.parent / "out" / "report.md").exists()


def test_test_pictures_that_were_trained_on_are_said(models, pictures, tmp_path):
    """Of 24, three as the same file."""
    trained_on = tmp_path / "trained.parquet"
    known = sorted(pictures.glob("red/*.jpg"))[:3]
    rows = [
        {"jpg": path.read_bytes(), "caption": f"a red thing {n}"} for n, path in enumerate(known)
    ]
    pq.write_table(pa.Table.from_pylist(rows), trained_on)
    out = ["--out", str(tmp_path / "out"), "--trained-on", str(trained_on)]
    assert main(["--model", models[0], "--data", str(pictures), *out]) == 0
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())["info"]["seen"].values()
    assert (found["pictures"], found["same_bytes"]) == (24, 3)
    assert found["class_names"] == {"all": 3, "in_captions": ["red"]}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## Seen in training" in report
    assert "| colours | 24 | 3 |" in report


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "s.yaml"], "with --model"),
        (["--model", "starter"], "--suite FILE or --data FOLDER"),
        (["--model", "nosuch", "--data", "."], "nosuch"),
        (["--model", "starter", "--data", "absent"], "absent"),
        (["--model", "starter", "starter", "--data", "."], "two are called starter"),
        (["--model", "starter", "--data", ".", "--run-dir", "x"], "--run-dir"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(
    arguments, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "nosuch"}, "there are folder"),
        ({"test": {"path": "absent"}}, "sets.it.test"),
        ({"test": {"path": ".", "nosuch": 1}}, "nosuch"),
        ({"classes": "NoSuchSet"}, "NoSuchSet"),
        ({"metric": "best"}, "metric"),
    ],
)
def test_a_suite_that_is_wrong_says_where(models, pictures, tmp_path, capsys, changed, said):
    options = suite(tmp_path, it={"format": "folder", "test": str(pictures)} | changed)
    assert main(["--model", models[0], *options]) == 2
    assert said in capsys.readouterr().err


def test_datacomps_sets_are_known_by_their_folders(tmp_path):
    sets = {
        f"set{number}": {"format": "clip_benchmark", "test": f"wds_{name.replace('/', '-')}_test"}
        for number, name in enumerate(DATACOMP)
    }
    suite = Suite.model_validate({"sets": sets}, context={"folder": tmp_path})
    assert [one.datacomp for one in suite.sets.values()] == list(DATACOMP)
    metrics = {one.datacomp: one.metric_of("classification") for one in suite.sets.values()}
    assert metrics["vtab/caltech101"] == "mean_per_class"
    assert metrics["imagenet1k"] == "top1"
    every, datacomp = averages_of(suite).values()
    assert (len(every), len(datacomp)) == (38, 33)
    missing = Suite.model_validate({"sets": {"set0": sets["set0"], "set1": sets["set1"]}})
    assert list(averages_of(missing)) == ["all sets"]
