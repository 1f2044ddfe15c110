"""What a training says: lines, TensorBoard's files, speed."""

from __future__ import annotations

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from pipelines.training import metrics
from pipelines.training.metrics import TENSORBOARD, Clock, Log


def events(folder):
    """All that stands in TensorBoard's files, the oldest first.

    A length, its checksum, the event, its checksum.
    """
    files = (folder / TENSORBOARD).glob("events.*")
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16


def test_a_line_stands_for_the_steps_since_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "LINES", 2)
    log = Log(None, 6)
    for step in range(1, 7):
        log.step(step, float(step), {"learning_rate": step / 10})
    assert log.lines == [
        {"step": 3, "loss": 2.0, "learning_rate": 0.3},
        {"step": 6, "loss": 5.0, "learning_rate": 0.6},
    ]


def test_losses_since_the_last_line_are_not_lost_with_a_process(monkeypatch):
    monkeypatch.setattr(metrics, "LINES", 1)
    log = Log(None, 4)
    log.step(1, 1.0, {})
    log.step(2, 2.0, {})
    again = Log(None, 4, log.state())
    again.step(3, 3.0, {})
    again.step(4, 4.0, {})
    assert again.lines == [{"step": 4, "loss": 2.5}]


def test_tensorboard_has_each_step_and_drops_what_a_lost_process_has_shown(tmp_path):
    log = Log(tmp_path, 4)
    for step in (1, 2):
        log.step(step, 0.5 * step, {"temperature": 14.0})
    kept = log.state()
    log.step(3, 9.0, {})
    log.close()
    again = Log(tmp_path, 4, kept)
    again.step(3, 1.5, {})
    again.show(3, {"pairs/s": 70.0})
    again.close()
    found = list(events(tmp_path))
    values = [
        (event.step, value.tag, value.simple_value)
        for event in found
        for value in event.summary.value
    ]
    assert values[:3] == [(1, "loss", 0.5), (1, "temperature", 14.0), (2, "loss", 1.0)]
    assert values[-2:] == [(3, "loss", 1.5), (3, "pairs/s", 70.0)]
    starts = [event.step for event in found if event.HasField("session_log")]
    assert starts[-1] == 3, "what was shown of step 3 and later before is not shown"


def test_speed_is_since_the_process_began(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = Clock(peak=1000.0)
    now = 110.0
    clock.stepped(50, flops=2000)
    speed = clock.speed(waited=1.0)
    assert speed == pytest.approx({"pairs/s": 5.0, "waiting for data": 0.1, "MFU": 0.2})
    assert "MFU" not in Clock(peak=None).speed(0.0)
    assert clock.has_passed(10.0)
    assert not clock.has_passed(10.0)
    assert not clock.is_over(None)
    assert not clock.is_over(1.0)
    now = 161.0
    assert clock.is_over(1.0)
    clock.kept()
    assert not clock.is_over(1.0)
