"""Batches on their way to the devices."""

import jax
import numpy as np

from kt_jax import partition


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
