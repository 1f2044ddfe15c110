"""How many actors share a cluster, and what each of them has."""

import pytest

from pipelines.run.config import RaySettings
from pipelines.run.engines import Actors

LAPTOP = {"CPU": 8.0}
WORKSTATION = {"CPU": 16.0, "GPU": 1.0}
SERVER = {"CPU": 65.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "settings", "shards", "actors"),
    [
        ([LAPTOP], {}, 100, Actors(1, 8.0, 0.0, 8)),
        ([LAPTOP], {"actors": 2}, 100, Actors(2, 4.0, 0.0, 4)),
        ([LAPTOP, LAPTOP], {}, 100, Actors(2, 8.0, 0.0, 8)),
        ([LAPTOP, LAPTOP], {}, 1, Actors(1, 8.0, 0.0, 8)),
        ([{"CPU": 1.0}], {}, 100, Actors(1, 1.0, 0.0, 1)),
        ([WORKSTATION], {}, 100, Actors(1, 16.0, 1.0, 16)),
        ([WORKSTATION], {"gpus_per_actor": 0.5}, 100, Actors(2, 8.0, 0.5, 8)),
        ([WORKSTATION], {"gpus_per_actor": 0.0}, 100, Actors(1, 16.0, 0.0, 16)),
        ([SERVER], {}, 100, Actors(8, 8.125, 1.0, 8)),
        ([SERVER], {}, 4, Actors(4, 16.25, 1.0, 16)),
        # Machines without a GPU have no actor, and so no say in the others' shares.
        ([SERVER, LAPTOP], {}, 100, Actors(8, 8.125, 1.0, 8)),
        # As many must fit onto the fullest machine as it has GPUs.
        ([SERVER, {"CPU": 65.0, "GPU": 1.0}], {}, 100, Actors(9, 8.125, 1.0, 8)),
        # A cluster that grows.
        ([], {"actors": 16, "gpus_per_actor": 1.0}, 100, Actors(16, 1, 1.0, None)),
        ([], {}, 100, Actors(1, 1, 0.0, None)),
    ],
)
def test_actors_share_what_the_machines_have(nodes, settings, shards, actors):
    assert Actors.on(nodes, RaySettings(**settings), shards) == actors
