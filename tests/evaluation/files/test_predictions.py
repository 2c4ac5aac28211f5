import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agcnn_jax.data.text import match_names
from agcnn_jax.evaluation.files.predictions import predictions_csv, read_predictions
from agcnn_jax.runtime.errors import UserError

KNOWN = ("Mass", "Pleural_Thickening", "No Finding")


@given(
    arrays(np.float32, (3, 2), elements=st.floats(0, 1, width=32)),
)
def test_float32_survives_the_file(tmp_path_factory, probabilities):
    path = tmp_path_factory.mktemp("round") / "p.csv"
    images = ["a.png", "b.png", "c.png"]
    path.write_text(predictions_csv(images, ("Mass", "No Finding"), probabilities))
    back = read_predictions(path, KNOWN)
    assert path.read_text().startswith("Image Index,prob_Mass,prob_No Finding\na.png,")
    assert back.image_ids == ["a.png", "b.png", "c.png"]
    assert back.labels == ("Mass", "No Finding")
    np.testing.assert_array_equal(back.probabilities.astype(np.float32), probabilities)


def test_names_are_taken_in_any_spelling(write):
    text = "﻿,image_index,MASS,pleural thickening,Unnamed: 0\n0,a.png,1e-3,.5,7\n"
    path = write("p.csv", text)
    assert read_predictions(path, KNOWN).labels == ("Mass", "Pleural_Thickening")


def test_paths_tell_films_of_one_name_apart(write):
    rows = "view1.png,/films/{}/view1.png,0.5\n"
    path = write("p.csv", "Image Index,path,prob_Mass\n" + rows.format("a") + rows.format("b"))
    ids = read_predictions(path, KNOWN).image_ids
    assert ids == ["/films/a/view1.png", "/films/b/view1.png"]
    assert match_names(ids, ["a/view1.png", "b/view1.png"]) == {
        "/films/a/view1.png": "a/view1.png",
        "/films/b/view1.png": "b/view1.png",
    }
    twice = write("twice.csv", "Image Index,path,prob_Mass\n" + 2 * rows.format("a"))
    with pytest.raises(UserError, match=r"'/films/a/view1\.png' has more than one row"):
        read_predictions(twice, KNOWN)


def test_other_columns_are_passed_over_beside_prefixed_ones(write):
    path = write("p.csv.gz", gzip.compress(b"Image Index,Prob_mass,Mass,Age\na.png,0.25,1,x\n"))
    found = read_predictions(path, KNOWN)
    assert (found.labels, found.probabilities.tolist()) == (("Mass",), [[0.25]])


def test_pandas_row_numbers_are_passed_over(write):
    path = write("p.csv", ",Image Index,prob_Mass\n0,a.png,1\n7,b.png,0.5\n")
    assert read_predictions(path, KNOWN).probabilities.tolist() == [[1], [0.5]]


def test_logits_beside_probabilities_are_what_is_ranked(write):
    header = "Image Index,logit_Mass,prob_Mass,Logit No Finding,prob_No Finding\n"
    found = read_predictions(write("p.csv", f"{header}a.png,-3,0.0474,99,1\n"), KNOWN)
    assert found.labels == ("Mass", "No Finding")
    assert found.probabilities.tolist() == [[0.0474, 1]]
    assert found.ranked.tolist() == [[-3, 99]]


@pytest.mark.parametrize(
    ("probability", "logit", "accepted"),
    [("0.04743", "-3", True), ("0.0475", "-3", True), ("0.0476", "-3", False), ("1", "9", False)],
)
def test_probabilities_are_the_sigmoids_of_the_logits_beside_them(
    write, probability, logit, accepted
):
    """The sigmoid of -3 is 0.047426, that of 9 0.999877; 1e-4 is rounding."""
    rows = f"a.png,0.5,0\nb.png,{probability},{logit}\n"
    path = write("p.csv", f"Image Index,prob_Mass,logit_Mass\n{rows}")
    if accepted:
        assert read_predictions(path, KNOWN).probabilities[1] == float(probability)
        return
    sigmoid = {"-3": "0.0474259", "9": "0.999877"}[logit]
    with pytest.raises(UserError) as caught:
        read_predictions(path, KNOWN)
    assert (
        f"p.csv, line 3, prob_Mass: {probability}, but the sigmoid of the logit {logit} is "
        f"{sigmoid};" in str(caught.value)
    )


def test_probabilities_are_not_taken_for_logits(write):
    """A file of logits with one number outside 0 to 1 is read."""
    header = "Image Index,prob_Mass,prob_No Finding\n"
    with pytest.raises(
        UserError, match=r"p\.csv, line 3, prob_Mass: 0\.25, and all .* --logits out"
    ):
        read_predictions(write("p.csv", f"{header}\na.png,0.25,1\nb.png,0,1\n"), KNOWN, True)
    found = read_predictions(write("p.csv", f"{header}a.png,0.25,1\nb.png,0,-1e-9\n"), KNOWN, True)
    assert found.ranked.tolist() == [[0.25, 1], [0, -1e-9]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Image Index;prob_Mass;prob_No Finding\na.png;0.25;1\n", "separated by semicolons"),
        ("Image Index\tprob_Mass\tprob_No Finding\na.png\t0.25\t1\n", "separated by tabs"),
        ("\ufeffImage Index,prob_Mass,prob_No Finding\na.png,0.25,1\n", "a byte order mark"),
        ("Image Index,prob_Mass,Patient (age; sex; view; id)\na.png,0.25,1\n", ""),
        ('"a, b; c";Path;"prob_Mass"\n1;x/a.png;0.25\n', "separated by semicolons"),
        ("Age,image,prob_Mass\r\n5,a.png,0.25\r\n", ""),
    ],
)
def test_other_delimiters_are_read_and_said(write, capsys, text, said):
    found = read_predictions(write("p.csv", text), KNOWN)
    assert [name.removeprefix("x/") for name in found.image_ids] == ["a.png"]
    assert found.probabilities[0].tolist() == [0.25, 1][: len(found.labels)]
    printed = capsys.readouterr().err
    assert said in printed and bool(printed) == bool(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Image Index;prob_Mass\na.png;0,25\n",
            "line 2, prob_Mass: '0,25' has a decimal comma; write 0.25",
        ),
        (
            "Image Index,prob_Mass\na.png,0,25\n",
            "line 2: 3 columns, but the header has 2; write decimal",
        ),
        ("Image Index,prob_Mass\na.png,0.25\n".encode("utf-16"), "is UTF-16 text; save"),
        ("Image Index,prob_Mass\na.png,0.25\n".encode("utf-16-le"), "is UTF-16 text; save"),
        (
            "Image Index,prob_Mass\nM\u00fcller.png,1\n".encode("cp1252"),
            "line 2 has the byte 0xfc; if it is Windows-1252",
        ),
        (b"PAR1\x15\x04\x15\x10PAR1", "is a Parquet table, no text; write it"),
        (b"PK\x03\x04..xl/workbook.xml..", "is an Excel workbook, no text; save"),
        (
            b"PK\x03\x04..mimetypeapplication/vnd.oasis.opendocument.spreadsheet..",
            "is an OpenDocument spreadsheet, no text; save",
        ),
        (b"PK\x03\x04..arr_0.npy..", "is a NumPy archive, no text; write it"),
        (b"PAR1..axl/b..PAR1", "is a Parquet table, no text; write it"),
        (b"PK\x03\x04..data.csv..", "is a zip archive, no text; unpack"),
        (
            gzip.compress(b"\xd0\xcf\x11\xe0\xa1\xb1", mtime=0),
            "is an Excel workbook, no text; save",
        ),
    ],
)
def test_what_is_no_utf8_text_is_named(write, text, said):
    with pytest.raises(UserError) as caught:
        read_predictions(write("p.csv", text), KNOWN)
    assert "p.csv" in str(caught.value) and said in str(caught.value)


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
