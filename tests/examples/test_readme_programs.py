"""OpenAI's three example programs, run as a user runs them, on a small folder of drawings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression

import clip_model
from clip_model.probe import fit_probe
from examples import linear_probe, predict, zero_shot
from examples.labelled import Folder, get_features

COLOURS = {"blue circle": "blue", "red circle": "red", "yellow circle": "yellow"}
A_CLASS = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(A_CLASS):
            image = Image.new("RGB", (96, 80), "white")
            box = (8 + number, 6 + number, 72 + number, 70 + number)
            ImageDraw.Draw(image).ellipse(box, fill=colour)
            image.save(root / name / f"{number}.png")
    return root


def test_predict(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = images / "red circle" / "0.png"
    captions = ["red circle", "dog", "fire truck"]
    predict.main([str(path), *captions, "--model", "starter", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == captions
    shares = [float(line.split("%")[0]) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.05)
    assert max(shares) == shares[0]


def test_zero_shot(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--folder", str(images), "--model", "starter", "--device", "cpu"]
    zero_shot.main([*options, "--template", "bare", "--all"])
    out = capsys.readouterr().out
    assert out.startswith("An image of the class blue circle. Top predictions:\n")
    assert re.search(r"\n +blue circle: +\d+\.\d\d%\n", out)
    accuracy = re.search(r"Accuracy = (\S+)% of 6 images", out)
    assert accuracy is not None
    assert float(accuracy[1]) > 60


@pytest.mark.parametrize("more", [[], ["--unprojected", "--C", "1"]])
def test_linear_probe(images: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    linear_probe.main(["--folder", str(images), "--model", "starter", "--device", "cpu", *more])
    assert capsys.readouterr().out == "Accuracy = 100.000\n"


def test_probe_predicts_what_scikit_learn_does(images: Path) -> None:
    model, preprocess = clip_model.load("starter", device="cpu")
    parts = (Folder(images, train=part) for part in (True, False))
    train, test = (get_features(model, preprocess, part) for part in parts)
    theirs = LogisticRegression(random_state=0, C=0.316, max_iter=1000)
    theirs.fit(train[0].numpy(), train[1].numpy())
    ours = fit_probe(*train).predict(test[0])
    assert np.array_equal(ours.numpy(), theirs.predict(test[0].numpy()))


def test_parts_of_a_folder_share_nothing(images: Path) -> None:
    train, test = (Folder(images, train=part) for part in (True, False))
    assert train.classes == test.classes == sorted(COLOURS)
    assert (len(train), len(test)) == (18, 6)
    everything = {(image.tobytes(), label) for part in (train, test) for image, label in rows(part)}
    assert len(everything) == 24


def rows(folder: Folder) -> list[tuple[Image.Image, int]]:
    return [folder[index] for index in range(len(folder))]


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no images"):
        Folder(tmp_path, train=True)


@pytest.mark.parametrize("program", [predict, zero_shot, linear_probe])
def test_help(program: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        program.main(["--help"])  # type: ignore[attr-defined]
    assert left.value.code == 0
    assert "--model" in capsys.readouterr().out


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "zero_shot": zero_shot.main,
    "linear_probe": linear_probe.main,
    "predict": predict.main,
}
BROKEN = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "not an image": lambda whole: b"<html>not found</html>",
    "cannot identify": lambda whole: b"",
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_one_line(program, kind, images, tmp_path, capsys) -> None:
    for folder in ("red", "blue"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            whole = (images / "red circle" / "0.png").read_bytes()
            (tmp_path / folder / f"{number}.png").write_bytes(BROKEN[kind](whole))
    image = tmp_path / "red" / "0.png"
    what = [str(image), "a dog"] if program == "predict" else ["--folder", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        PROGRAMS[program]([*what, "--model", "starter", "--device", "cpu"])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"python -m examples.{program}: {tmp_path}")
    assert "cannot be used: " in said.err


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_images_is_one_line(folder, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as end:
        zero_shot.main(["--folder", str(tmp_path / folder), "--model", "starter"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_image_beyond_the_last_is_one_line(images, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        zero_shot.main(["--folder", str(images), "--index", "6", "--device", "cpu"])
    assert end.value.code == 2
    assert "there is no image 6 among 6" in capsys.readouterr().err
