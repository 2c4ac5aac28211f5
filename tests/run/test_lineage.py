"""Lineages of weights: joined, counted, written and read back."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.run import lineage
from agcnn_jax.run.lineage import ANY_COLLECTION, CHESTXRAY14, NOTHING, UNKNOWN, Lineage

names = st.text("abc", min_size=1, max_size=3)
lineages = st.builds(
    Lineage,
    st.dictionaries(st.sampled_from(["x", "y"]), st.dictionaries(names, st.sampled_from("pq"))),
    st.frozensets(st.sampled_from(["x", "y", ANY_COLLECTION])),
    st.frozensets(st.sampled_from(["x", "y"])),
)


def test_counts_images_and_patients_of_the_same_collection():
    seen = lineage.lineage_of("x", ["a", "b", "c"], ["1", "1", "2"], synthetic=False)
    overlap = seen.overlap("x", ["b", "d", "e", "f"], ["1", "1", "2", "3"])
    assert overlap == lineage.Overlap(images=1, patients=2, complete=True)
    assert seen.overlap("y", ["b"], ["1"]) == lineage.Overlap(0, 0, True)


def test_an_unlisted_collection_is_not_complete():
    assert not UNKNOWN.overlap("x", ["a"], ["1"]).complete
    assert not Lineage(unlisted=frozenset({"x"})).overlap("x", ["a"], ["1"]).complete
    assert Lineage(unlisted=frozenset({"x"})).overlap("y", ["a"], ["1"]).complete
    assert NOTHING.overlap("x", ["a"], ["1"]).complete


def test_nih_names_contain_the_patients():
    listed = lineage.lineage_of_names(["00000013_005.png", "00000013_006.png", "odd.png"])
    overlap = listed.overlap(CHESTXRAY14, ["00000013_000.png", "odd.png"], ["13", "7"])
    assert overlap == lineage.Overlap(images=1, patients=2, complete=True)


def test_the_same_number_is_one_patient_whatever_its_zeros():
    trained = [f"{patient:08d}_000.png" for patient in range(1, 27)]
    tested = [f"{patient:08d}_001.png" for patient in range(1, 42)]
    for write in (str, "{:08d}".format, "{:03d}".format):
        of_lists = lineage.lineage_of_names(trained)
        patients = [write(i) for i in range(1, 27)]
        of_store = lineage.lineage_of(CHESTXRAY14, trained, patients, synthetic=False)
        for seen in (of_lists, of_store):
            overlap = seen.overlap(CHESTXRAY14, tested, [str(i) for i in range(1, 42)])
            assert overlap == lineage.Overlap(images=0, patients=26, complete=True)
            overlap = seen.overlap(CHESTXRAY14, tested, [f"{i:08d}" for i in range(1, 42)])
            assert overlap.patients == 26


def test_shared_patients_are_not_known_where_no_id_has_the_form_of_the_seen():
    seen = lineage.lineage_of_names(["00000013_005.png", "00000014_000.png"])
    overlap = seen.overlap(CHESTXRAY14, ["a.png", "b.png"], ["P0013", "P0015"])
    assert overlap.in_words(2, 2) == (
        "images trained on: 0 of 2; patients shared with training: not known"
    )
    overlap = seen.overlap(CHESTXRAY14, ["a.png", "b.png"], ["P0013", "15"])
    assert overlap.in_words(2, 2).endswith("shared with training: 0 of 2")
    assert NOTHING.overlap(CHESTXRAY14, ["a.png"], ["P1"]).in_words(1, 1).endswith(": 0 of 1")


def test_seen_images_are_found_in_other_folders_and_without_extension():
    seen = lineage.lineage_of_names(["00000013_005.png", "00000014_000.png"])
    names = ["images_001/00000013_005.PNG", "d:\\x\\00000014_000", "00000013_000.png"]
    assert seen.overlap(CHESTXRAY14, names, ["a", "b", "c"]).images == 2


@given(lineages, lineages, st.lists(names, unique=True))
def test_a_join_has_all_images_of_both(first, second, image_ids):
    patients = ["p"] * len(image_ids)
    both = first.joined(second)
    for collection in ("x", "y"):
        parts = [part.overlap(collection, image_ids, patients) for part in (first, second)]
        whole = both.overlap(collection, image_ids, patients)
        assert whole.images >= max(part.images for part in parts)
        assert whole.images <= sum(part.images for part in parts)
        assert whole.complete == all(part.complete for part in parts)
    assert both.synthetic == (first.synthetic or second.synthetic)


def test_weights_that_saw_synthetic_images_say_so_after_other_training_too():
    """Whatever the collections are called."""
    drawn = lineage.lineage_of("ours", ["a"], ["1"], synthetic=True)
    real = lineage.lineage_of("phantoms, synthetic", ["b"], ["1"], synthetic=False)
    assert drawn.synthetic and not real.synthetic
    assert real.joined(drawn).synthetic and drawn.joined(real).synthetic
    assert Lineage.from_json(drawn.to_json()).synthetic


@given(lineages)
def test_json_round_trip(some):
    assert Lineage.from_json(some.to_json()) == some


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"seen": {}, "unlisted": []},
        {"seen": {}, "unlisted": [], "synthetic": True},
        {"seen": [], "unlisted": [], "synthetic": []},
        {"seen": {"x": {"a": 1}}, "unlisted": [], "synthetic": []},
    ],
)
def test_other_json_is_refused(value):
    with pytest.raises(ValueError, match="not a lineage"):
        Lineage.from_json(value)


def test_digests_depend_on_values_names_shapes_and_dtypes():
    tree = {"a": jnp.arange(6.0), "b": {"c": jnp.zeros(2)}}
    others = [
        {"a": jnp.arange(6.0).at[5].add(1e-6), "b": {"c": jnp.zeros(2)}},
        {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.zeros(2)}},
        {"a": jnp.arange(6), "b": {"c": jnp.zeros(2)}},
        {"a": jnp.arange(6.0), "b": {"d": jnp.zeros(2)}},
    ]
    digests = {lineage.digest(each) for each in [tree, *others]}
    assert len(digests) == 5
    assert (
        lineage.digest({"a": np.arange(6.0, dtype=np.float32), "b": {"c": np.zeros(2, "f4")}})
        in digests
    )


CHEXPERT = "CheXpert"


def test_base_names_that_all_films_share_are_no_overlap():
    seen = lineage.lineage_of(
        CHEXPERT,
        [f"train/patient{i}/study1/view1_frontal.jpg" for i in range(5)],
        [f"patient{i}" for i in range(5)],
        synthetic=False,
    )
    tested = [f"train/patient{i}/study1/view1_frontal.jpg" for i in (5, 6)]
    overlap = seen.overlap(CHEXPERT, tested, ["patient5", "patient6"])
    assert overlap == lineage.Overlap(images=0, patients=0, complete=True)
    # Not even of one film on each side.
    one = lineage.lineage_of("x", ["p1/view1_frontal.jpg"], ["1"], synthetic=False)
    assert one.overlap("x", ["p2/view1_frontal.jpg"], ["2"]).images == 0
    again = seen.overlap(CHEXPERT, ["D:\\x\\train\\patient3\\study1\\view1_frontal.PNG"], ["q"])
    assert again.images == 0  # four other films have this base name, so it is not said which
    known = seen.overlap(CHEXPERT, ["train/patient3/study1/view1_frontal.jpg", *tested], ["q"] * 3)
    assert known.images == 1


def test_a_film_is_found_with_or_without_folders_if_its_base_name_is_its_own():
    seen = lineage.lineage_of(
        "x", ["a/1.dcm", "b/2.dcm", "b/3.dcm"], ["p", "q", "q"], synthetic=False
    )
    overlap = seen.overlap("x", ["1.png", "films\\b\\2", "c/3.dcm"], ["r", "r", "r"])
    assert (overlap.images, overlap.complete) == (2, True)


@pytest.mark.parametrize(
    ("tested", "patient", "words"),
    [
        ("a/frontal.png", "Q", "not known"),  # a base name of the seen films in other folders
        ("77-1.png", "P1", "not known"),  # a patient whose films have other names
        ("77-1.png", "Q", "0 of 1"),
        ("p9/s1/frontal.png", "P1", "0 of 1"),  # another film of a patient, named the same way
    ],
)
def test_names_of_another_form_in_one_collection(tested, patient, words):
    films = [f"p{i}/s1/frontal.png" for i in range(3)]
    seen = lineage.lineage_of("x", films, ["P0", "P1", "P2"], synthetic=False)
    overlap = seen.overlap("x", [tested], [patient])
    assert overlap.in_words(1, 1).startswith(f"images trained on: {words};")
    assert not overlap.relative


@pytest.mark.parametrize("scored", ["RSNA", "SIIM-ACR 2019", "ChestX-Det10", "NIH relabelled"])
def test_parts_of_a_collection_whose_names_cannot_be_compared(scored):
    nih = lineage.lineage_of(CHESTXRAY14, ["00000013_005.png"], ["13"], synthetic=False)
    films = ["1.2.276.0.7230010.3.1.dcm", "0_1.png"]
    for seen in (nih, Lineage(unlisted=frozenset({CHESTXRAY14}))):
        overlap = seen.overlap(scored, films, ["a", "b"])
        assert overlap.relative == CHESTXRAY14
        assert overlap.in_words(2, 2) == (
            "images trained on: not known; patients shared with training: not known"
        )
    # And the other way round, and between two parts.
    part = lineage.lineage_of("RSNA", films, ["a", "b"], synthetic=False)
    assert part.overlap(CHESTXRAY14, ["00000013_005.png"], ["13"]).relative == "RSNA"
    assert part.overlap("SIIM", ["x.dcm"], ["z"]).relative == "RSNA"
    assert not part.overlap("CheXpert", ["x.dcm"], ["z"]).relative
    # Drawn films are nobody else's, whatever they are called and whoever saw them.
    assert not part.overlap("NIH", ["x.dcm"], ["z"], synthetic=True).relative
    drawn = lineage.lineage_of("RSNA", films, ["a", "b"], synthetic=True)
    assert not drawn.overlap(CHESTXRAY14, ["x.dcm"], ["z"]).relative
    # The NIH's own names are a mapping.
    named = nih.overlap(scored, ["00000013_005.png", "00000014_000.png"], ["13", "14"])
    assert (named.images, named.patients, named.complete, named.relative) == (1, 1, True, "")
    other = nih.overlap(scored, ["00000013_000.png"], ["13"])
    assert (other.images, other.patients, other.complete) == (0, 1, True)


def test_a_run_says_which_collection_is_its_own(tmp_path):
    seen = lineage.lineage_of("theirs", ["a"], ["1"], synthetic=False)
    both = seen.joined(lineage.lineage_of("ours", ["a"], ["1"], synthetic=False))
    lineage.write(epath.Path(tmp_path), both, None, "ours")
    assert lineage.own_collections(epath.Path(tmp_path)) == {"ours"}
    assert lineage.read(epath.Path(tmp_path)) == (both, None)
    # As runs of earlier versions do, and converted weights.
    lineage.write(epath.Path(tmp_path), both, None)
    assert lineage.own_collections(epath.Path(tmp_path)) == {"ours", "theirs"}
