"""Batches on their way to the devices."""

import os
from importlib import metadata

import jax
import numpy as np
import pytest

from kt_jax.machine import partition


def test_batches_are_sent_ahead_and_in_order():
    taken = []

    def batches():
        for number in range(5):
            taken.append(number)
            yield {"image": np.full((4, 2), number, np.uint8)}

    arriving = partition.put_ahead(batches(), partition.make_mesh(), ahead=2)
    first = next(arriving)["image"]
    assert taken == [0, 1, 2]
    assert len(first.sharding.device_set) == jax.device_count() == 4
    assert [int(batch["image"][3, 1]) for batch in [{"image": first}, *arriving]] == [0, 1, 2, 3, 4]


def test_flags_that_come_too_late_are_warned_of(monkeypatch, caplog):
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--yours")
    partition.configure_xla()
    assert "JAX had started before kt_jax could set XLA_FLAGS" in caplog.text
    assert os.environ["XLA_FLAGS"] == "--yours"


@pytest.mark.parametrize(
    ("version", "given", "expected"),
    [
        ("0.0.42.1", "", True),
        ("0.0.50", "--xla_yours=1", True),
        ("0.0.51", "--xla_yours=1", False),
        (None, "", False),
    ],
)
def test_tpus_sum_large_gradients_while_they_compute(version, given, expected, monkeypatch):
    """With a libtpu that knows the flags; one that does not would end the process."""

    def find(name):
        if name == "libtpu" and version:
            return version
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(partition.metadata, "version", find)
    monkeypatch.setattr(partition, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    partition.configure_xla()
    told = os.environ["LIBTPU_INIT_ARGS"].split()
    assert told[: len(given.split())] == given.split()
    assert ("--xla_enable_async_all_reduce=true" in told) is expected


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setattr(partition.metadata, "version", lambda _: "0.0.42")
    monkeypatch.setattr(partition, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_enable_async_all_reduce=false")
    partition.configure_xla()
    assert os.environ["LIBTPU_INIT_ARGS"].count("--xla_enable_async_all_reduce") == 1
    assert "--xla_jf_crs_combiner_threshold_in_bytes=4000000" in os.environ["LIBTPU_INIT_ARGS"]
