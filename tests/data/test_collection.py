import json

import pytest

from agcnn_jax.data.collection import NIH, Collection, part_of, read_collection
from agcnn_jax.runtime.errors import UserError

ABOUT = {"collection": "ours", "provenance": "films of ours", "box_size": 512, "synthetic": False}


@pytest.mark.parametrize("synthetic", [True, False])
def test_the_file_may_be_beside_the_images_or_above_them(tmp_path, synthetic):
    (tmp_path / "images").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({**ABOUT, "synthetic": synthetic}))
    for folder in (tmp_path, tmp_path / "images"):
        assert read_collection(folder) == Collection("ours", "films of ours", 512, synthetic)


def test_images_without_it_are_nih_s(tmp_path):
    assert read_collection(tmp_path) == NIH and not NIH.synthetic


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({k: v for k, v in ABOUT.items() if k != key}) for key in ABOUT),
        json.dumps({**ABOUT, "synthetic": "false"}),
        json.dumps({**ABOUT, "synthetic": 0}),
        json.dumps({**ABOUT, "box_size": 0}),
        json.dumps({**ABOUT, "collection": None}),
        "{",
    ],
)
def test_what_is_missing_is_named_with_the_remedy(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: must have .*synthetic \(true or false\)"):
        read_collection(tmp_path)


def test_phantoms_of_earlier_versions_do_not_pass_for_radiographs(tmp_path):
    (tmp_path / "phantoms.json").write_text("{}")
    with pytest.raises(UserError, match=r"phantoms\.json: .*draw them again"):
        read_collection(tmp_path)


@pytest.mark.parametrize("text", ['{"name": "Task", "training": []}', "[]", "{}"])
def test_files_of_that_name_from_other_programs_are_not_read(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    assert read_collection(tmp_path) == NIH


@pytest.mark.parametrize(
    ("collection", "parent"),
    [
        ("RSNA Pneumonia Detection Challenge 2018", "ChestX-ray14"),
        ("kaggle_siim_acr", "ChestX-ray14"),
        ("ChestX-Det10", "ChestX-ray14"),
        ("NIH-LT", "ChestX-ray14"),
        ("NIH ChestXray14", "ChestX-ray14"),
        ("ChestX-ray14", "ChestX-ray14"),
        ("CheXpert Plus", "CheXpert"),
        ("MIMIC-CXR-JPG 2.1", "MIMIC-CXR"),
        ("St Mary 2024", "St Mary 2024"),
        ("Chest X-rays of 14 wards", "Chest X-rays of 14 wards"),
        ("mimic4_cxr", "MIMIC-CXR"),
        ("MIMICCXR", "MIMIC-CXR"),
        ("Versnihville", "Versnihville"),
        ("Unihospital", "Unihospital"),
        ("Önih Spital", "Önih Spital"),
        ("Pantomimic clinic", "Pantomimic clinic"),
        ("Chest X Detroit", "Chest X Detroit"),
    ],
)
def test_collections_whose_films_are_another_s(collection, parent):
    assert part_of(collection) == parent
