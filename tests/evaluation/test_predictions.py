import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agcnn_jax.evaluation.predictions import read_predictions, write_predictions
from agcnn_jax.runtime.errors import UserError

KNOWN = ("Mass", "Pleural_Thickening", "No Finding")


@given(
    arrays(np.float32, (3, 2), elements=st.floats(0, 1, width=32)),
)
def test_float32_survives_the_file(tmp_path_factory, probabilities):
    path = tmp_path_factory.mktemp("round") / "p.csv"
    write_predictions(path, ["a.png", "b.png", "c.png"], ("Mass", "No Finding"), probabilities)
    back = read_predictions(path, KNOWN)
    assert path.read_text().startswith("Image Index,prob_Mass,prob_No Finding\na.png,")
    assert back.image_ids == ["a.png", "b.png", "c.png"]
    assert back.labels == ("Mass", "No Finding")
    np.testing.assert_array_equal(back.probabilities.astype(np.float32), probabilities)


def test_names_are_taken_in_any_spelling(write):
    text = "﻿,image_index,MASS,pleural thickening,Unnamed: 0\n0,a.png,1e-3,.5,7\n"
    path = write("p.csv", text)
    assert read_predictions(path, KNOWN).labels == ("Mass", "Pleural_Thickening")


def test_other_columns_are_passed_over_beside_prefixed_ones(write):
    path = write("p.csv.gz", gzip.compress(b"Image Index,Prob_mass,Mass,Age\na.png,0.25,1,x\n"))
    found = read_predictions(path, KNOWN)
    assert (found.labels, found.probabilities.tolist()) == (("Mass",), [[0.25]])


def test_pandas_row_numbers_are_passed_over(write):
    path = write("p.csv", ",Image Index,prob_Mass\n0,a.png,1\n7,b.png,0.5\n")
    assert read_predictions(path, KNOWN).probabilities.tolist() == [[1], [0.5]]


def test_logits_beside_probabilities_are_what_is_ranked(write):
    text = "Image Index,logit_Mass,prob_Mass,Logit No Finding,prob_No Finding\na.png,-3,0.5,99,1\n"
    found = read_predictions(write("p.csv", text), KNOWN)
    assert found.labels == ("Mass", "No Finding")
    assert found.probabilities.tolist() == [[0.5, 1]]
    assert found.ranked.tolist() == [[-3, 99]]


@pytest.mark.parametrize(("column", "flag"), [("logit_Mass", False), ("prob_Mass", True)])
def test_a_file_of_logits_alone(write, column, flag):
    found = read_predictions(
        write("p.csv", f"Image Index,{column}\na.png,{np.log(3)}\n"), KNOWN, flag
    )
    np.testing.assert_allclose(found.probabilities, [[0.75]])
    np.testing.assert_allclose(found.ranked, [[np.log(3)]])


@pytest.mark.parametrize(
    ("header", "logits", "message"),
    [
        (
            "prob_Mass,logit_Mass",
            True,
            "has logit_ columns, which are read as such; leave --logits",
        ),
        ("prob_Mass,logit_No Finding", False, "has no column logit_Mass, but others with logit_"),
        (
            "logit_Mass,logit_Moss",
            False,
            "column 'logit_Moss' is not a known finding; name it logit_",
        ),
    ],
)
def test_mistakes_with_logits(write, header, logits, message):
    with pytest.raises(UserError, match=message):
        read_predictions(write("p.csv", f"Image Index,{header}\na.png,0.5,0.5\n"), KNOWN, logits)
