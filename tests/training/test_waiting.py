"""The share of a training's time in which the devices have nothing to compute."""

import threading
import time

import jax.numpy as jnp
import pytest

from kt_jax.training import waiting


class Step:
    """Metrics that are ready when they are told to be."""

    def __init__(self):
        self.ready = threading.Event()

    def block_until_ready(self):
        self.ready.wait(5)
        return self


def wait_for(finished, count):
    for _ in range(500):
        if finished._finished == count:
            return
        time.sleep(0.01)
    pytest.fail(f"{finished._finished} of {count} steps are seen as finished")


def slowly(seconds, *values):
    for value in values:
        time.sleep(seconds)
        yield value


def test_devices_that_compute_do_not_wait():
    measured = waiting.Waiting()
    batches = slowly(0.05, 1, 2)
    assert measured.get(batches) == 1
    step = Step()
    measured.send({"loss": step})
    assert measured.get(batches) == 2
    assert measured.share() == 0
    step.ready.set()
    measured.close()


def test_devices_that_are_done_wait():
    measured = waiting.Waiting()
    batches = slowly(0.05, 1, 2)
    measured.get(batches)
    # Before the first step nothing waits.
    assert measured.share() == 0
    measured.send({"loss": jnp.zeros(())})
    wait_for(measured, 1)
    measured.share()
    measured.get(batches)
    assert 0.3 < measured.share() <= 1
    assert measured.share() == 0
    measured.close()


def test_a_step_that_fails_ends_the_watching():
    class Broken:
        def block_until_ready(self):
            raise RuntimeError("a peer has gone")

    measured = waiting.Waiting()
    before = threading.active_count()
    measured.send({"loss": Broken()})
    for _ in range(500):
        if threading.active_count() < before:
            break
        time.sleep(0.01)
    assert threading.active_count() < before
