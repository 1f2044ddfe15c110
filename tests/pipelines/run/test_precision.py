"""`precision: auto` is decided once, whatever machines a run goes on with."""

import json
import socket
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.run.attempts import perform
from pipelines.run.config import Config, ConfigError, RaySettings
from pipelines.run.directory import Run
from pipelines.run.precision import check_precision, decided, machines_without_bfloat16
from pipelines.run.receipts import Shard
from pipelines.run.runner import Plan, is_complete
from pipelines.stages.embeddings import Embed, Embeddings, recorded_settings
from tests.processors import HAS_BFLOAT16, needs_bfloat16
from tests.shards import five_images, save_tiny_model
from workers.embedding.settings import EmbedSettings


@pytest.fixture
def open_run(tmp_path):
    """A run whose images are there, opened as each new command opens it."""
    model = save_tiny_model(tmp_path / "tiny")
    config: dict[str, Any] = {"name": "test", "queries": {}, "embeddings": {"model": model}}

    def opened(**embeddings):
        tree = config | {"embeddings": config["embeddings"] | embeddings}
        run = Run.open(Config.model_validate(tree), tmp_path / "run")
        run.save()
        return run

    for name in ("00000", "00001"):
        perform(five_images, Shard(name, "key"), opened().directory / "images")
    return opened


def embed(run):
    """What a command does: decide, plan, and the first shard that is open."""
    stage = Embeddings(run)
    stage.prepare()
    plan = Plan.of(stage)
    for shard in plan.todo[:1]:
        perform(Embed(recorded_settings(run)), shard, stage.folder)
    return len(plan.done), len(plan.todo)


def precisions(run):
    """Those of the run's embeddings, as any reader sees them."""
    files = run.outputs("embeddings")
    return {pq.read_schema(path).metadata[b"precision"].decode() for path in files}


@needs_bfloat16
@pytest.mark.parametrize("starts_without", [True, False])
def test_a_run_that_goes_on_elsewhere_keeps_its_precision(open_run, move, starts_without):
    """A run that begins without bfloat16 is fp32 to its end; one that begins with it needs it."""
    move(elsewhere=starts_without)
    precision = "fp32" if starts_without else "bf16"
    assert embed(open_run()) == (0, 2)
    record = json.loads((open_run().directory / "run.json").read_text())
    assert record["decisions"] == {"embeddings.precision": precision}

    move(elsewhere=not starts_without)
    if not starts_without:
        with pytest.raises(ConfigError, match=r"bf16, which .* set embeddings\.precision: fp32"):
            embed(open_run())
        move(elsewhere=False)
    assert embed(open_run()) == (1, 1)
    move(elsewhere=not starts_without)
    assert embed(open_run()) == (2, 0)  # nothing to do: any machine will do
    assert precisions(open_run()) == {precision}

    (open_run().directory / "run.json").unlink()
    assert embed(open_run()) == (2, 0)
    assert open_run().decision("embeddings.precision") == precision


def test_looking_at_a_plan_decides_nothing(open_run):
    run = open_run()
    assert len(Plan.of(Embeddings(run)).todo) == 2
    assert not is_complete(run, "embeddings", {"images": True})
    assert run.decision("embeddings.precision") is None
    assert embed(open_run()) == (0, 2)
    assert len(Plan.of(Embeddings(open_run())).done) == 1


@needs_bfloat16
def test_a_precision_that_is_said_outdoes_the_record_and_auto_keeps_it(open_run):
    assert embed(open_run()) == (0, 2)
    assert embed(open_run(precision="fp32")) == (0, 2)
    assert embed(open_run(precision="auto")) == (1, 1)
    assert precisions(open_run()) == {"fp32"}


@needs_bfloat16
def test_a_precision_that_this_machine_has_not_discards_nothing(open_run, move):
    embed(open_run(precision="fp32"))
    move(elsewhere=True)
    with pytest.raises(ConfigError, match="only emulate"):
        embed(open_run(precision="bf16"))
    assert open_run().decision("embeddings.precision") == "fp32"
    assert embed(open_run()) == (1, 1)


@pytest.mark.usefixtures("move")
def test_a_cluster_computes_in_what_all_of_its_machines_have():
    """A head that only leads is not asked; then one joins that is held to less than bfloat16."""
    import ray
    from ray.cluster_utils import Cluster

    less = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    head = {"num_cpus": 0, "include_dashboard": False, "env_vars": less}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        settings = RaySettings(address=cluster.address)
        expected = "bf16" if HAS_BFLOAT16 else "fp32"
        assert decided(EmbedSettings(), None, settings).precision == expected

        cluster.add_node(num_cpus=1, env_vars=less)
        machines_without_bfloat16.cache_clear()
        assert machines_without_bfloat16(settings) == (socket.gethostname(),)
        assert decided(EmbedSettings(), None, settings).precision == "fp32"
        with pytest.raises(ConfigError, match=f"{socket.gethostname()} would only emulate"):
            check_precision(EmbedSettings(precision="bf16"), settings)
    finally:
        ray.shutdown()
        cluster.shutdown()
