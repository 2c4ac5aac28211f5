"""Splits: disjoint, complete, reproducible; shared patients are counted."""

import dataclasses
import gzip
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from agcnn_jax.config.saved import check_unchanged, describe_run, read_config, write_config
from agcnn_jax.configs import common
from agcnn_jax.data import PROTOCOLS
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.records import Records
from agcnn_jax.data.splits import SUBSETS, make_split
from agcnn_jax.data.text import read_names
from agcnn_jax.runtime.errors import UserError
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14


def make_records(patients, official=None, names=None, absent=0):
    """Return records of these patients, with only the columns that splits depend on."""
    count = len(patients)
    empty = np.zeros(count, np.int64)
    return Records(
        directory=Path("store"),
        labels=("Mass",),
        findings=("Mass",),
        provenance="test",
        collection="test",
        synthetic=False,
        image_size=8,
        fingerprint="",
        image_ids=np.array(names or [f"{index:05d}.png" for index in range(count)]),
        patient_ids=np.array([str(patient) for patient in patients]),
        label_matrix=np.zeros((count, 1), np.uint8),
        follow_ups=empty,
        ages=empty,
        sexes=empty.astype(str),
        views=empty.astype(str),
        widths=empty,
        heights=empty,
        official=np.array(official if official is not None else [""] * count),
        official_names=sum(name != "" for name in official) + absent if official is not None else 0,
        shards=(),
    )


patients_of = st.lists(st.integers(0, 60), min_size=120, max_size=400).filter(
    lambda patients: len(set(patients)) >= 20
)


@settings(max_examples=40, deadline=None)
@given(patients=patients_of, seed=st.integers(0, 2**31), protocol=st.sampled_from(PROTOCOLS[:3]))
def test_subsets_are_disjoint_complete_and_independent_of_order(patients, seed, protocol):
    official = ["test" if patient % 3 == 0 else "train_val" for patient in patients]
    if len(set(official)) < 2:
        return
    records = make_records(patients, official)
    split = make_split(records, protocol, seed)
    parts = [split.train, split.validation, split.test]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(patients)))
    for part in parts:
        assert part.dtype == np.int64 and np.all(np.diff(part) > 0)
    groups = [{patients[index] for index in part} for part in parts]
    assert split.shared_patients == len(groups[0] & groups[2])
    if protocol != "random":
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])

    order = np.random.default_rng(seed).permutation(len(patients))
    shuffled = make_records(
        [patients[index] for index in order],
        [official[index] for index in order],
        records.image_ids[order].tolist(),
    )
    again = make_split(shuffled, protocol, seed)
    for subset in SUBSETS:
        names = set(records.image_ids[getattr(split, subset)])
        assert names == set(shuffled.image_ids[getattr(again, subset)])


def test_shares_and_seed():
    records = make_records(np.arange(1000) // 4)
    split = make_split(records, "random", 0)
    assert [len(split.train), len(split.validation), len(split.test)] == [700, 100, 200]
    assert split.shared_patients > 100  # patients leak, as in the paper
    by_patient = make_split(records, "patient", 0)
    parts = [by_patient.train, by_patient.validation, by_patient.test]
    assert [len(part) for part in parts] == [4 * 175, 4 * 25, 4 * 50]
    other = make_split(records, "random", 1)
    assert set(other.test.tolist()) != set(split.test.tolist())
    custom = make_split(records, "random", 0, fractions=(0.5, 0.25, 0.25))
    assert len(custom.train) == 500


def test_official_takes_the_test_list_and_an_eighth_of_the_rest():
    patients = np.arange(900) // 3
    official = np.where(patients < 240, "train_val", "test")
    split = make_split(make_records(patients, official), "official", 0)
    np.testing.assert_array_equal(split.test, np.arange(720, 900))
    assert len(set(patients[split.validation])) == 30 and len(set(patients[split.train])) == 210


def test_official_counts_images_of_neither_list_and_names_without_image():
    official = ["train_val"] * 40 + ["test"] * 10 + [""] * 5
    records = make_records(range(55), official, absent=3)
    with pytest.raises(UserError, match=r"leave out 5 of the 55 images in store, such as 00050"):
        make_split(records, "official", 0)
    split = make_split(records, "official", 0, allow_unlisted=True)
    assert len(split.train) + len(split.validation) == 40
    assert split.test.tolist() == [*range(40, 50)]
    assert (split.absent_names, split.unlisted_images) == (3, 5)
    assert split.in_words() == (
        "protocol official; its lists name 3 images that are not in the dataset, and leave out 5 "
        "that are"
    )


def lists_of(names, *sizes):
    ends = np.cumsum((0, *sizes))
    parts = [list(names[low:high]) for low, high in itertools.pairwise(ends)]
    return dict(zip(SUBSETS, parts, strict=True))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(50, 400),
    unlisted=st.integers(0, 8),
    absent=st.integers(0, 500),
    protocol=st.sampled_from(("official", "lists")),
)
def test_lists_may_leave_out_one_percent_of_the_images(count, unlisted, absent, protocol):
    listed = count - unlisted
    official = ["train_val"] * (listed - 10) + ["test"] * 10 + [""] * unlisted
    records = make_records(range(count), official, absent=absent)
    names = [*records.image_ids[:listed], *(f"absent{index}" for index in range(absent))]
    lists = lists_of(names, 20, 10, listed + absent - 30) if protocol == "lists" else None
    if unlisted > count / 100:
        with pytest.raises(UserError, match=rf"leave out {unlisted} of .*allow_unlisted=True"):
            make_split(records, protocol, 0, lists)
    for allowed in (True, unlisted > count / 100):
        split = make_split(records, protocol, 0, lists, allow_unlisted=allowed)
        assert (split.absent_names, split.unlisted_images) == (absent, unlisted)


def test_other_protocols_count_no_names():
    records = make_records(range(100), ["test"] * 30 + [""] * 70, absent=5)
    for protocol in ("random", "patient"):
        split = make_split(records, protocol, 0)
        assert split.absent_names == split.unlisted_images == 0
        assert split.in_words() == f"protocol {protocol}"


def test_lists_of_names_with_folders_and_blanks(tmp_path):
    """Folders tell images apart, also absent ones; a line that is an id counts whole."""
    names = [f"{site} {i // 10}, PA/{i % 10}" for site in "ab" for i in range(20)]
    records = make_records(range(40), names=names)
    parts = dict(zip(SUBSETS, (names[:20], names[20:30], names[30:]), strict=True))
    for subset, absent in zip(SUBSETS, ("x/gone.png", "y/gone.png", "z/gone.png"), strict=True):
        word = {"validation": "val"}.get(subset, subset)
        (tmp_path / f"{word}_list.txt").write_text("\n".join([*parts[subset], absent]))
    split = make_split(records, "lists", 0, tmp_path)
    for subset, part in parts.items():
        assert records.image_ids[getattr(split, subset)].tolist() == part
    assert (split.absent_names, split.unlisted_images) == (3, 0)


def test_edited_lists_of_equal_length_are_different_data(tmp_path):
    records = make_records(range(20))
    names = records.image_ids.tolist()
    first, edited = (
        {"provenance": "here", "fingerprint": "1", "images": 20}
        | make_split(records, "lists", 0, lists_of(order, 12, 4, 4)).summary()
        for order in (names, [*names[:11], names[12], names[11], *names[13:]])
    )
    different = {key for key in first if first[key] != edited[key]}
    assert different == {"train_digest", "validation_digest"}
    config = common.get_config()
    workdir = epath.Path(tmp_path)
    of_records = {"provenance": "a test", "synthetic": False, "fingerprint": "f", "images": 20}
    first, edited = (of_records | split for split in (first, edited))
    write_config(config, workdir, first)
    saved = read_config(workdir)
    check_unchanged(config, first, saved, workdir)
    with pytest.raises(UserError, match="was made with another data: train_digest is '"):
        check_unchanged(config, edited, saved, workdir)
    ours, theirs = (describe_run(config, data) for data in (first, edited))
    assert {key for key in ours if ours[key] != theirs[key]} == {
        "data train_digest",
        "data validation_digest",
    }


def test_demo_config_on_real_data_without_lists_names_what_works():
    for lists, words in ((None, "random or patient"), ("folder", "random, patient or lists")):
        with pytest.raises(UserError, match=f"set --config.data.protocol to {words}, or put"):
            make_split(make_records(range(30)), "official", 0, lists)
    records = make_records(range(30), ["test"] * 30)
    with pytest.raises(UserError, match=r"--config\.data\.protocol=random or patient"):
        make_split(records, "official", 0)


def test_summary_is_json():
    records = make_records(range(100))
    split = make_split(records, "random", 0)

    def of(indices):
        return hashlib.sha256("\n".join(records.image_ids[indices]).encode()).hexdigest()[:16]

    assert json.loads(json.dumps(split.summary())) == {
        "protocol": "random",
        "train": 70,
        "validation": 10,
        "test": 20,
        **{f"{subset}_digest": of(getattr(split, subset)) for subset in SUBSETS},
        "shared_patients": 0,
        "absent_names": 0,
        "unlisted_images": 0,
    }


def test_lists_from_a_folder_and_from_names(tmp_path):
    records = make_records([0, 0, 1, 2, 3, 3])
    names = records.image_ids.tolist()
    lists = {"train": names[:2], "validation": [names[4], "absent.png"], "test": names[2:4]}
    for subset, stem in zip(SUBSETS, ("train", "val", "test"), strict=True):
        text = "\n".join(lists[subset]) + "\n\n"
        if subset == "test":
            (tmp_path / f"my_{stem}_list.txt").write_text(text)
        else:
            (tmp_path / f"my_{stem}_list.txt.gz").write_bytes(gzip.compress(text.encode()))
    for source in (lists, tmp_path, str(tmp_path)):
        split = make_split(records, "lists", 0, source, allow_unlisted=True)
        parts = (split.train, split.validation, split.test)
        assert [part.tolist() for part in parts] == [[0, 1], [4], [2, 3]]
        assert split.summary()["absent_names"] == 1


@pytest.mark.parametrize(
    "form", ["images_001/{} 0 0 1", "/d x/{}", "C:\\d\\{}", "{},0,1", "{.stem}", "{.stem}.PNG,1"]
)
def test_lists_of_other_programs_name_the_same_split(tmp_path, form):
    records = make_records([0, 0, 1, 2, 3, 3])
    lists = lists_of(records.image_ids, 2, 1, 3)
    expected = make_split(records, "lists", 0, lists).summary()
    for subset, names in lists.items():
        lines = [form.format(Path(name)) for name in [*names, "absent.png"]]
        (tmp_path / f"{subset}.txt").write_text("\ufeff" + "\r\n".join(lines), newline="")
    paths = {subset: tmp_path / f"{subset}.txt" for subset in SUBSETS}
    with pytest.raises(UserError, match=r"absent.* is in the train list and in the validation"):
        make_split(records, "lists", 0, paths)
    for subset, path in paths.items():
        path.write_text(path.read_text().replace("absent", subset))
    assert make_split(records, "lists", 0, paths).summary() == {**expected, "absent_names": 3}


def test_lists_of_other_images_show_both_names(tmp_path):
    lists = {"train": ["00000.png"], "validation": ["x/1.png 0", "y"], "test": ["00001.png"]}
    said = "list begins with 'x/1.png 0', and the data with '00000.png'; use lists of these images"
    with pytest.raises(UserError, match=f"10 records in store is in the validation .*{said}"):
        make_split(make_records(range(10)), "lists", 0, lists)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (None, r"needs a folder with train, val and test lists; .*config\.data\.lists="),
        ("missing", r"config\.data\.lists missing: no such folder"),
        ({"train": []}, "must be for train, validation, test"),
        ({"train": ["a"], "validation": ["b"], "test": "gone.txt"}, r"gone\.txt: no such file"),
        (
            {"train": ["00000.png"], "validation": ["00001.png"], "test": ["00000.png"]},
            "00000.png is in the train list and in the test list",
        ),
        (
            {"train": ["00000.png"], "validation": ["x"], "test": ["00001.png"]},
            "in the validation subset",
        ),
    ],
)
def test_bad_lists(lists, words):
    with pytest.raises(UserError, match=words):
        make_split(make_records(range(10)), "lists", 0, lists)


def test_folder_must_hold_one_list_for_each_subset(tmp_path):
    for name in ("a_train_list.txt", "b_train_list.txt", "val_list.txt", "test_list.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(
        UserError, match=r"2 files named like train_list.txt \(a_train_list.txt, b_train_"
    ):
        make_split(make_records(range(10)), "lists", 0, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("rnadom", 0),
            r"config\.data\.protocol 'rnadom': must be one of random, patient, official, lists",
        ),
        (("official", 0), r"without the official lists; set .*, or put train_val_list\.txt"),
        (("random", -1), r"config\.data\.split_seed -1: must be 0 or more"),
        (("random", 0, None, (0.5, 0.1, 0.1)), "sum to 1"),
        (("random", 0, None, (0.9, 0.2, -0.1)), "sum to 1"),
        (("patient", 0), "in the validation subset"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(UserError, match=words):
        make_split(make_records([0] * 10), *arguments)


@needs_chest_xray14
def test_public_chexnet_lists_share_no_patient():
    lists = {
        subset: CHEST_XRAY14 / "lists" / f"chexnet_{word}_list.txt.gz"
        for subset, word in zip(SUBSETS, ("train", "val", "test"), strict=True)
    }
    names = [read_names(lists[subset]) for subset in SUBSETS]
    everything = [name for part in names for name in part]
    records = make_records([name.split("_")[0] for name in everything], None, everything)
    split = make_split(records, "lists", 0, lists)
    assert [len(part) for part in names] == [
        len(split.train),
        len(split.validation),
        len(split.test),
    ]
    assert split.shared_patients == split.absent_names == 0
    assert len(make_split(records, "random", 0).test) == round(0.2 * len(everything))
    assert make_split(records, "random", 0).shared_patients > 0


def test_images_without_a_known_label_leave_training_and_are_counted():
    records = make_records([i // 2 for i in range(200)])
    whole = make_split(records, "random", 0)
    matrix = np.zeros((200, 3), np.uint8)
    matrix[::4] = MISSING
    matrix[1::2, :2] = MISSING  # one label is known, and that is enough
    partly = dataclasses.replace(records, labels=("a", "b", "c"), label_matrix=matrix)
    split = make_split(partly, "random", 0)
    kept = whole.train[whole.train % 4 != 0]
    np.testing.assert_array_equal(split.train, kept)
    assert split.unlabelled_images == len(whole.train) - len(kept) > 0
    # Validation and test keep theirs, which have no AUC but count.
    np.testing.assert_array_equal(split.validation, whole.validation)
    np.testing.assert_array_equal(split.test, whole.test)
    text = "\n".join(records.image_ids[kept])
    expected = {
        **whole.summary(),
        "train": len(kept),
        "train_digest": hashlib.sha256(text.encode()).hexdigest()[:16],
        "shared_patients": len({*records.patient_ids[kept]} & {*records.patient_ids[whole.test]}),
        "unlabelled_images": len(whole.train) - len(kept),
    }
    assert split.summary() == expected
    assert "unlabelled_images" not in whole.summary()


def test_a_training_subset_without_any_known_label():
    records = make_records(range(30))
    hidden = dataclasses.replace(records, label_matrix=np.full((30, 1), MISSING, np.uint8))
    with pytest.raises(UserError, match=r"none of the 21 images of the training .* a known label"):
        make_split(hidden, "random", 0)
