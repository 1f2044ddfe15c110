"""Which precision a run computes in: decided once and the same for all its machines.

`auto` is decided when the first shard is to be embedded, or a training begins, and stands in the
run's record from then on, so a run that goes on elsewhere is neither mixed nor begun again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow.parquet as pq

from pipelines.run.config import ConfigError, RaySettings
from pipelines.run.engines import start_ray
from pipelines.training.settings import TrainSettings
from workers.base.copies import readable
from workers.base.storage import DAMAGED_PARQUET
from workers.embedding.settings import EmbedSettings

log = logging.getLogger(__name__)

#: What embeddings say of themselves.
Said = Literal["model", "precision", "preprocessing"]

Computes = TypeVar("Computes", EmbedSettings, TrainSettings)

#: A GPU's share that asks a machine of GPUs: as good as none, and it waits for a GPU as work would.
SHARE_TO_ASK = 0.001


def on_record(settings: Computes, recorded: object) -> Computes:
    """The settings, with `auto` as it was decided before; as they are if it was not."""
    if settings.precision == "auto" and recorded in ("fp32", "bf16"):
        return settings.model_copy(update={"precision": recorded})
    return settings


def decided(
    settings: Computes, recorded: object, ray: RaySettings | None, section: str = "embeddings"
) -> Computes:
    """The settings with `auto` as it was decided before, or else as it is now.

    Args:
        ray: where the work will be done; None for this process. A cluster's machines are asked.
        section: of the configuration, for the log.
    """
    settings = on_record(settings, recorded)
    if settings.precision != "auto":
        return settings
    slow = machines_without_bfloat16(ray)
    why = f", as {_list(slow)} would only emulate bf16" if slow else ""
    precision = "fp32" if slow else "bf16"
    log.info("%s.precision: auto is %s from here on%s", section, precision, why)
    return settings.model_copy(update={"precision": precision})


def check_precision(settings: EmbedSettings, ray: RaySettings | None) -> None:
    """Raise ConfigError where a machine that would work only emulates the settings' precision."""
    if settings.precision == "bf16" and (slow := machines_without_bfloat16(ray)):
        raise ConfigError(
            f"the embeddings are in bf16, which {_list(slow)} would only emulate: go on with "
            "machines that compute in it, or set embeddings.precision: fp32 (pipelines.embed: "
            "--set precision=fp32 and another --out), which embeds everything again"
        )


def precision_of(files: Sequence[Path]) -> str | None:
    """What embeddings say of themselves; None if there are none."""
    return said_by(files, "precision")


def said_by(files: Sequence[Path], key: Said) -> str | None:
    """What the first of some files of embeddings says of all; None if it says nothing."""
    try:
        metadata = pq.read_schema(readable(files[0])).metadata if files else None
    except DAMAGED_PARQUET:
        return None
    return (metadata or {}).get(key.encode(), b"").decode() or None


@cache
def machines_without_bfloat16(ray: RaySettings | None) -> tuple[str, ...]:
    """The names of the machines that will work and would only emulate bfloat16, sorted.

    Machines that join a cluster later are not asked: there, the shards that they begin fail.
    """
    if ray is None or ray.address is None:
        on_gpus = ray is None or ray.gpus_per_actor != 0
        answers = [slow_machine(on_gpus)]
    else:
        answers = list(_ask_cluster(ray))
    return tuple(sorted({name for name in answers if name}))


def slow_machine(on_gpus: bool) -> str | None:
    """This machine's name if it only emulates bfloat16 where embedding would be done."""
    import torch

    from workers.base.hardware import computes_bfloat16, fastest_device

    device = fastest_device() if on_gpus else torch.device("cpu")
    return None if computes_bfloat16(device) else socket.gethostname()


def _ask_cluster(settings: RaySettings) -> Iterator[str | None]:
    """The answer of each machine that has room for an actor (see ``engines.Actors``).

    A cluster without any is one that grows: the first machine that comes answers for it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    start_ray(settings)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    gpus = settings.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if any(node["Resources"].get("GPU") for node in nodes) else 0.0
    hosts = [node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0) >= gpus]
    task = ray.remote(slow_machine)
    options: list[dict[str, Any]] = [
        {
            "num_cpus": 0,
            "num_gpus": SHARE_TO_ASK if gpus else 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(host, soft=False),
        }
        for host in hosts
    ] or [{"num_cpus": 1, "num_gpus": gpus}]
    log.info("asking %d machines what they compute in", len(options))
    for asked in [task.options(**each).remote(gpus > 0) for each in options]:
        try:
            yield ray.get(asked)
        except ray.exceptions.RayError as error:  # the machine has left meanwhile
            log.warning("a machine did not say what it computes in: %s", error)


def _list(machines: Sequence[str]) -> str:
    return ", ".join(machines[:3]) + (f" and {len(machines) - 3} more" if machines[3:] else "")
