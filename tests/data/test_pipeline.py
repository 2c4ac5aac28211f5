import os

import grain
import numpy as np
import pytest

from agcnn_jax.data.pipeline import evaluation_batches, iterate, training_batches
from agcnn_jax.runtime.machine import available_cores


class Numbers:
    """Record i is an image of gray level i."""

    def __len__(self):
        return 256

    def __getitem__(self, record):
        return {
            "image": np.full((2, 2), record, np.uint8),
            "labels": np.array([record % 2], np.uint8),
        }


INDICES = np.arange(100, 123)


def take(dataset, count, start=0):
    return [dataset[k]["record"].tolist() for k in range(start, start + count)]


def test_every_epoch_is_a_new_permutation_in_whole_batches():
    dataset = training_batches(Numbers(), INDICES, batch_size=5, seed=0)
    epochs = [np.concatenate(take(dataset, 4, 4 * epoch)) for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 20
        assert set(epoch) <= set(INDICES)
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 1  # leaves out other records


def test_same_seed_same_order():
    def order(seed):
        return take(training_batches(Numbers(), INDICES, 5, seed), 9)

    assert order(0) == order(0) != order(1)


def test_the_order_is_that_of_earlier_versions():
    # A run that an earlier version began would otherwise resume with other images.
    batches = training_batches(Numbers(), INDICES, 5, seed=3)
    assert take(batches, 2) == [[104, 122, 116, 107, 121], [103, 118, 119, 120, 100]]
    assert take(batches, 1, start=4) == [[114, 101, 115, 107, 121]]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins threads")
def test_as_many_threads_read_as_there_are_cores_for_this_process(monkeypatch):
    allowed, asked = os.sched_getaffinity(0), []
    options = grain.ReadOptions
    monkeypatch.setattr(
        grain, "ReadOptions", lambda **given: asked.append(given) or options(**given)
    )
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
        iterate(training_batches(Numbers(), INDICES, 5, 0)).close()
    finally:
        os.sched_setaffinity(0, allowed)
    assert [given["num_threads"] for given in asked] == [1]


def test_a_batch_holds_its_records():
    batch = training_batches(Numbers(), INDICES, 5, 0)[7]
    assert batch["step"] == 7
    assert batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][:, 0, 0], batch["record"])
    np.testing.assert_array_equal(batch["labels"][:, 0], batch["record"] % 2)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_same_global_batches(count):
    whole = take(training_batches(Numbers(), INDICES, 6, 0), 8)
    parts = [
        take(training_batches(Numbers(), INDICES, 6, 0, index, count), 8) for index in range(count)
    ]
    for step, records in enumerate(whole):
        shares = [part[step] for part in parts]
        assert {len(share) for share in shares} == {6 // count}
        assert sorted(np.concatenate(shares)) == sorted(records)


@pytest.mark.parametrize("stage", [None, lambda batch: {**batch, "seen": True}])
def test_state_counts_consumed_batches_not_those_read_ahead(stage):
    dataset = training_batches(Numbers(), INDICES, 5, 0)
    batches = iterate(dataset, stage)
    for _ in range(6):
        next(batches)
    state = batches.get_state()
    expected = [next(batches)["record"].tolist() for _ in range(5)]
    batches.close()
    resumed = iterate(dataset, stage)
    resumed.set_state(state)
    assert [next(resumed)["record"].tolist() for _ in range(5)] == expected == take(dataset, 5, 6)
    resumed.close()


def test_an_error_in_the_last_stage_reaches_the_consumer():
    def fail(batch):
        raise RuntimeError("no region")

    batches = iterate(training_batches(Numbers(), INDICES, 5, 0), fail)
    with pytest.raises(RuntimeError, match="no region"):
        next(batches)
    batches.close()


@pytest.mark.parametrize(("count", "batches"), [(10, 2), (7, 2), (3, 1)])
def test_evaluation_reads_everything_once_in_batches_of_one_size(count, batches):
    indices = INDICES[:count]
    iterator = evaluation_batches(Numbers(), indices, 5)
    read = list(iterator)
    iterator.close()
    assert len(read) == batches
    assert {batch["image"].shape for batch in read} == {(5, 2, 2)}
    records = np.concatenate([batch["record"] for batch in read])
    np.testing.assert_array_equal(records[:count], indices)
    assert set(records[count:]) <= {indices[-1]}
