"""A few kills of `python -m benchmarks.chaos`; the full number is a command."""

import random

from benchmarks.chaos import ON_RAY, VICTIMS, Chaos, Folders, table


def test_runs_that_are_killed_end_as_documented_with_the_same_bytes(finished, commands, tmp_path):
    # Ray's own processes have tests of their own: test_lost_processes.py, test_cluster.py.
    victims = [victim for victim in VICTIMS if "Ray" not in victim.name and victim.stages != ON_RAY]
    chaos = Chaos(commands, finished, random.Random(11), Folders(tmp_path), victims)
    chaos.go(4)
    assert not chaos.faults, "\n".join(chaos.faults)
    assert chaos.completed
    assert sum(count.kills for count in chaos.counts.values()) == 4
    assert len(list(table(chaos))) == 2 + len(VICTIMS)
