"""Where an embedder's time goes, seen from outside."""

import time

import pytest

from workers.embedding.meter import Activity, Meter


@pytest.mark.parametrize(
    ("activity", "said"),
    [
        (Activity(), ""),
        (Activity(note="epoch 2"), "epoch 2"),
        (
            Activity(thread_seconds=10, decoding_seconds=2, computing_seconds=7.5),
            "compute-bound (threads 75% in the model, 20% decoding)",
        ),
        (
            Activity(thread_seconds=10, decoding_seconds=8, computing_seconds=1),
            "decode-bound (threads 10% in the model, 80% decoding)",
        ),
        (
            Activity(thread_seconds=10, decoding_seconds=2, computing_seconds=1),
            "waiting for files (threads 10% in the model, 20% decoding)",
        ),
        (
            Activity(thread_seconds=80, gpu_seconds=10, decoding_seconds=32, computing_seconds=9.7),
            "compute-bound (GPU 97% busy, threads 40% decoding)",
        ),
        (
            Activity(thread_seconds=80, gpu_seconds=10, decoding_seconds=76, computing_seconds=3),
            "decode-bound (GPU 30% busy, threads 95% decoding)",
        ),
        (
            Activity(thread_seconds=80, gpu_seconds=10, decoding_seconds=16, computing_seconds=4),
            "waiting for files (GPU 40% busy, threads 20% decoding)",
        ),
    ],
)
def test_what_would_make_it_faster_is_said_plainly(activity, said):
    assert activity.remark() == said


def test_several_embedders_are_one():
    some = [Activity(5, 0.25, 8.0, 2.0, 3.0, 1.0), Activity(7, 0.5, 2.0, 1.0, 1.0, 0.5)]
    assert sum(some, Activity()) == Activity(12, 0.75, 10.0, 3.0, 4.0, 1.5)
    assert sum([Activity(note="epoch 2")], Activity()).note == "epoch 2"


def test_a_meter_counts_time_in_shards_alone_and_forgets_what_was_read_of_them():
    meter = Meter(threads=4, on_gpu=True)
    time.sleep(0.05)
    with meter.shard():
        meter.read(0.5)
        with meter.decoding():
            time.sleep(0.02)
        meter.computed(0.01)
        meter.wrote(3)
        during = meter.activity()
    after = meter.activity()
    assert (during.rows, during.under_way, after.under_way) == (3, 0.5, 0.0)
    assert during.computing_seconds == after.computing_seconds == 0.01
    assert 0.02 <= after.decoding_seconds <= after.gpu_seconds
    assert after.thread_seconds == 4 * after.gpu_seconds
    time.sleep(0.05)
    assert meter.activity() == after
