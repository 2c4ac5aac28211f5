"""Lists of image names in the forms that other programs write, and the images that they mean."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agcnn_jax.data.text import csv_text, fitting_names, match_names, read_names, stem

ENDS = st.sampled_from(["", ".png", ".PNG"])
NAMES = ["00000001_000.png", "00000013_005.png", "00030805_012.png"]


@pytest.mark.parametrize(
    "form",
    [
        "{name}.png",
        "{name}",
        "{name}.PNG",
        "{name}.jpg 1 0",
        "images_001/{name}.png 0 0 1",
        "/data/chest xray, v2/images/{name}.png",
        "/data/chest xray, v2/images/{name}.png 0 1",
        "C:\\data\\new set\\{name}.png",
        "~/x/{name}.png\t1",
        "chest xray/{name}.png",
        "{name}.png,0,1",
        "{name},0,1",
        "{name};0;1",
        '"{name}.png","Effusion, Mass"',
        '"images/{name}.png" 0',
        '"chest xray, v2/{name}.png",0',
        "{name}\t0",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_of_a_list_names_the_same_images(tmp_path, form, end):
    lines = ["# train", "", *(form.format(name=name[:-4]) for name in NAMES), "  "]
    for start in ("", "\ufeff", "Image Index,fold" + end, "path" + end):
        (tmp_path / "list.txt").write_text(start + end.join(lines), newline="")
        names = read_names(tmp_path / "list.txt")
        assert len(names) == 3
        assert list(match_names(names, [*NAMES, "00000002_000.png"]).values()) == NAMES


def test_gzipped_lists_and_empty_ones(tmp_path):
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"a.png\nb.png 1\n"))
    assert read_names(tmp_path / "list.gz") == ["a.png", "b.png"]
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"\n# none\n"))
    assert read_names(tmp_path / "list.gz") == []


def test_a_name_that_fits_two_images_means_neither():
    known = ["p1/view1.jpg", "p2/view1.jpg", "a.png"]
    assert match_names(["x/view1.jpg", "view1", "p2/view1.jpg", "A.png", "x/a"], known) == {
        "p2/view1.jpg": "p2/view1.jpg",
        "x/a": "a.png",
    }


def test_folders_tell_images_apart():
    known = ["a/1.png", "b/1.png", "b/2.png", "c/d/3.jpg"]
    names = ["a/1.png", "root/b/1", "c/2.png", "2", "1.png", "d/3.jpg", "e/d/3.jpg", "b\\2.png"]
    assert match_names(names, known) == {
        "a/1.png": "a/1.png",
        "root/b/1": "b/1.png",
        "2": "b/2.png",
        "d/3.jpg": "c/d/3.jpg",
        "b\\2.png": "b/2.png",
    }
    assert fitting_names(["1.png", "c/2.png"], known) == {
        "1.png": ("a/1.png", "b/1.png"),
        "c/2.png": (),
    }


@pytest.mark.parametrize("line", ["chest 1, PA/film 2", "# 3", "a;b"])
def test_a_known_name_is_a_whole_line(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"{line}\nx y\n")
    assert read_names(tmp_path / "list.txt", {line}) == [line, "x"]


def test_only_extensions_of_images_are_left_out():
    """The end of a DICOM UID is no extension, and neither is the whole of a hidden name."""
    assert [stem(name) for name in ("1.2.840.7", "a/b.c.DCM", ".png", "d\\e.tiff")] == [
        "1.2.840.7",
        "b.c",
        ".png",
        "e",
    ]


@settings(max_examples=20)
@given(st.sets(st.tuples(st.text("abc", min_size=1, max_size=3), ENDS).map("".join)))
def test_known_names_mean_themselves(names):
    assert match_names(names, names) == {name: name for name in names}


def test_a_written_table_has_empty_cells_for_none_and_all_digits():
    rows = [("a, b", 0.1 + 0.2, None), ('say "c"', 3, "é\nf")]
    assert csv_text(["name", "x", "note"], iter(rows)) == (
        'name,x,note\n"a, b",0.30000000000000004,\n"say ""c""",3,"é\nf"\n'
    )
