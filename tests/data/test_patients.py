"""Ids that stand for one patient: in ChestX-ray14, whose patients are numbers, and elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.data.patients import comparable, nih_name, patient_key, read_patients
from agcnn_jax.runtime.errors import UserError


def read(patients, nih):
    return read_patients(patients, range(2, 2 + len(patients)), "t.csv", "Patient ID", nih)


@given(st.integers(0, 10**30), st.integers(0, 12))
def test_the_same_whole_number_is_one_patient(number, zeros):
    assert patient_key("0" * zeros + str(number)) == str(int("0" * zeros + str(number)))


def test_numbers_beyond_floats_stay_apart():
    ids = ["9007199254740992", "9007199254740993", "09007199254740993", "9" * 5000]
    assert read(ids, nih=True) == [ids[0], ids[1], ids[1], ids[3]]


@pytest.mark.parametrize("text", ["1.0", "1.", "1e3", "1E+05", "+2.50", "1,0", ".5e1"])
def test_float_notation_is_refused_in_chestxray14_with_its_first_line(text):
    with pytest.raises(UserError) as caught:
        read(["1", "2", text, "1.5"], nih=True)
    assert f"t.csv, line 4: 'Patient ID' is {text!r}, not a whole number;" in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [("7", "007"), ("1.0", "1"), ("1e+03", "1000"), ("P017", "P17"), ("0" + "9" * 40, "9" * 40)],
)
def test_ids_of_other_tables_that_differ_only_by_zeros_are_refused(one, other):
    with pytest.raises(UserError) as caught:
        read(["P1", one, "P10", one, other], nih=False)
    assert f"t.csv, line 6: 'Patient ID' is {other!r}, but {one!r} on line 3;" in str(caught.value)


def test_ids_of_other_tables_are_text():
    ids = ["007", "008", "P1", "P10", "1.2.840.7", "1.50", "a", "A", "12e5x"]
    ids += ["000e12", "000e13", "1e3", "1000"]  # hexadecimal
    # Of 39 digits, as in PadChest.
    ids += ["139860488694292331637988235681460987", "139860488694292331637988235681460988"]
    assert read(ids, nih=False) == ids


@pytest.mark.parametrize(
    ("seen", "table", "same"),
    [
        (["13", "7"], ["P0013", "P0007"], False),
        (["13", "7"], ["00000013"], True),
        (["P01"], ["P3", "x"], True),
        (["P01"], ["patient1"], False),
        (["3f2a9c01", "9b1d77e0"], ["aa8e41cd"], True),
        (["3f2a9c01"], ["3f2a-9c01"], False),
        ([], ["1"], False),
    ],
)
def test_ids_are_comparable_if_two_have_the_same_form(seen, table, same):
    assert comparable(seen, table) is same


def test_names_of_the_nih_in_any_folder():
    names = ["00000013_005.png", "x\\00000013_005.PNG", "/a/00000013_005", "a.png", "13_005.png"]
    assert [nih_name(name) for name in names] == ["00000013_005.png"] * 3 + [None] * 2
