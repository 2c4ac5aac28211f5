import json
from types import SimpleNamespace

import numpy as np

from agcnn_jax.data.splits import Split
from agcnn_jax.evaluation.scoring.subsets import FlowRow, data_flow


class Records(SimpleNamespace):
    def __len__(self):
        return len(self.patient_ids)


def experiment(directory, **counts):
    """Six images of three patients; one image is in no list."""
    patients = np.array(["1", "1", "2", "2", "3", "3"])
    subsets = (np.array([0, 1]), np.array([2]), np.array([4, 5]))
    records = Records(directory=directory, patient_ids=patients)
    split = Split("lists", *subsets, 0, {}, unlisted_images=1, **counts)
    return SimpleNamespace(records=records, split=split)


def test_from_files_to_scored_images(tmp_path):
    store = tmp_path / "chest_xray14" / "1.0.0"
    counts = {"unreadable image": 2, "no label row": 0, "duplicate": 1}
    report = {"files_seen": 9, "set_aside_counts": counts}
    (tmp_path / "prepare_report.json").write_text(json.dumps(report))
    rows = data_flow(experiment(store), "test", np.ones(2, bool))
    assert rows == [
        FlowRow("files found", 9),
        FlowRow("set aside: unreadable image", 2),
        FlowRow("set aside: duplicate", 1),
        FlowRow("in the data set", 6, 3),
        FlowRow("train subset, lists protocol", 2, 1),
        FlowRow("validation subset, lists protocol", 1, 1),
        FlowRow("test subset, lists protocol", 2, 1),
        FlowRow("in no list", 1),
        FlowRow("scored", 2, 1),
    ]
    assert rows[0].images == rows[1].images + rows[2].images + rows[3].images


def test_a_copy_without_the_report_begins_with_its_images(tmp_path):
    rows = data_flow(experiment(tmp_path / "chest_xray14" / "1.0.0"), "train", np.ones(2, bool))
    assert rows[0] == FlowRow("in the data set", 6, 3)
    assert rows[-1] == FlowRow("scored", 2, 1)


def test_images_without_a_known_label_are_counted(tmp_path):
    one = experiment(tmp_path / "chest_xray14" / "1.0.0", unlabelled_images=3)
    rows = data_flow(one, "test", np.array([True, False]))
    assert rows[4:] == [
        FlowRow("without a known label, so not trained on", 3),
        FlowRow("in no list", 1),
        FlowRow("scored", 2, 1),
        FlowRow("scored, but none of their labels is known", 1, 1),
    ]
