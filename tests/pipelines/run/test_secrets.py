"""Credentials of inputs are used and never stored or shown, in a run that ends badly too."""

import bz2
import json
import logging
import subprocess
import sys

import pytest

from pipelines.run.attempts import attempt
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.log import configure
from pipelines.run.receipts import Shard, Side
from pipelines.run.runner import Plan
from pipelines.stages import STAGES
from tests.pipelines.run.test_damaged_inputs import DUMP
from tests.workers.web import Answer, serving

SECRET = "S3CRET"
STAGES_ARGUMENTS = [
    "--stage",
    "queries",
    "--stage",
    "pages",
    "--stage",
    "candidates",
    "--stage",
    "pairs",
]


def build(tmp_path, dump, pair_list):
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps(
            {
                "name": "secrets",
                "queries": {"dumps": [dump], "min_count": 2, "titles": "none"},
                "pairs": {"inputs": [pair_list], "shards": 1},
                "beam": {"options": [f"--secret_key={SECRET}"]},
            }
        )
    )
    command = [sys.executable, "-m", "pipelines.build_dataset", str(config), *STAGES_ARGUMENTS]
    command += ["--run-dir", str(tmp_path / "run")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def files_with_secret(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def test_no_secret_of_an_input_is_stored_or_shown(tmp_path):
    bad_row = b'"http://a.example/2.png","unclosed'
    pairs = b"url,caption\n" + b"http://a.example/1.png,a cat and a dog\n" * 3 + bad_row
    dump_bytes = b"".join(map(bz2.compress, DUMP.encode().splitlines(keepends=True)))
    answers = {
        f"/dump.xml.bz2?token={SECRET}": Answer(dump_bytes[:-20]),
        f"/list.csv?sig={SECRET}&sv=1": Answer(pairs),
    }
    with serving(answers) as web:
        dump = f"http://user:{SECRET}@{web.host}/dump.xml.bz2?token={SECRET}"
        pair_list = f"http://{SECRET}@{web.host}/list.csv?sig={SECRET}&sv=1"
        damaged = build(tmp_path, dump, pair_list)
        assert damaged.returncode == 3, damaged.stderr
        absent = build(tmp_path, dump, pair_list.replace("list", "absent"))
        assert absent.returncode == 2, absent.stderr
        assert f"pairs.inputs: there is no file http://{web.host}/absent.csv" in absent.stderr
    rejected = (tmp_path / "run/_rejected/queries/all.json").read_text()
    assert f"http://{web.host}/dump.xml.bz2" in rejected
    for result in (damaged, absent):
        assert SECRET not in result.stdout + result.stderr
    assert files_with_secret(tmp_path / "run") == []


def test_a_shard_has_the_same_key_however_its_inputs_are_signed(tmp_path):
    def keys(web, signature):
        tree = {
            "name": "signed",
            "queries": {"dumps": [f"http://{web.host}/dump.xml?X-Amz-Signature={signature}"]},
        }
        (shard,) = Plan.of(STAGES["queries"](Run(Config.model_validate(tree), tmp_path))).todo
        assert shard.values["remote_dumps"][0].endswith(signature), (
            "the work must be able to open it"
        )
        return shard.key

    with serving({f"/dump.xml?X-Amz-Signature={n}": Answer(DUMP.encode()) for n in "12"}) as web:
        assert keys(web, "1") == keys(web, "2")


def test_an_error_of_a_library_is_kept_without_its_secrets(tmp_path):
    def work(shard, out):
        raise ValueError(f"cannot open https://u:{SECRET}@a.example/x?key={SECRET}")

    attempt(work, Shard("0", "key"), tmp_path / "stage")
    text = (Side.ERRORS.of(tmp_path / "stage") / "0.txt").read_text()
    assert "cannot open https://a.example/x" in text
    assert SECRET not in text


@pytest.fixture
def logger():

    root = logging.getLogger()
    handlers, level, filters = root.handlers, root.level, root.filters
    yield logging.getLogger("somebody.else")
    root.handlers, root.level, root.filters = handlers, level, filters


def test_whoever_logs_a_secret_it_is_not_in_the_logs(tmp_path, logger, capsys):
    configure(tmp_path)
    url = f"https://u:{SECRET}@a.example/x?token={SECRET}"
    try:
        raise ValueError(f'{{"url": "{url}"}}')
    except ValueError:
        logger.exception("at %s", url, extra={"fields": {"url": url, "error": [url]}})
    (line,) = (tmp_path / "logs/run.jsonl").read_text().splitlines()
    assert SECRET not in line + capsys.readouterr().err
    assert json.loads(line)["url"] == "https://a.example/x"
