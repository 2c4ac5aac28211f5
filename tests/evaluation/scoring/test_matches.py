"""A model's findings beside the labels of other data."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agcnn_jax.data.labels import LABELS
from agcnn_jax.evaluation.scoring.matches import (
    match_findings,
    match_notes,
    own_labels,
    scored_pairs,
)
from agcnn_jax.runtime.errors import UserError

CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)


def match(outputs, labels, *maps, one_set=False):
    return match_findings(outputs, labels, maps, name="--workdir run", one_set=one_set)


def pairs(matches):
    return {(one.ours, one.theirs): one.relation for one in scored_pairs(matches)}


def refusal(*arguments, **options):
    with pytest.raises(UserError) as refused:
        match(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_nih_on_chexpert():
    matches = match(LABELS, CHEXPERT)
    assert pairs(matches) == {
        ("Cardiomegaly", "Cardiomegaly"): "name",
        ("Edema", "Edema"): "name",
        ("Consolidation", "Consolidation"): "name",
        ("Pneumonia", "Pneumonia"): "name",
        ("Atelectasis", "Atelectasis"): "name",
        ("Pneumothorax", "Pneumothorax"): "name",
        ("Effusion", "Pleural Effusion"): "same",
    }
    assert [LABELS[one.output] for one in scored_pairs(matches)] == [
        one.ours for one in scored_pairs(matches)
    ]
    left = {(one.ours, one.theirs): one.relation for one in matches if not one.scored}
    # What both call No Finding differs by what was looked for.
    assert left["No Finding", "No Finding"] == "never"
    assert left["Infiltration", "Lung Opacity"] == "never"
    assert left["Pleural_Thickening", "Pleural Other"] == "never"
    assert left["Emphysema", ""] == ""
    assert left["", "Fracture"] == ""
    assert all(one.note for one in matches if not one.scored)
    everything = {one.ours for one in matches} | {one.theirs for one in matches}
    assert everything == {*LABELS, *CHEXPERT, ""}


def test_notes_name_everything_that_is_not_plainly_the_same():
    notes = match_notes(match(("Effusion", "Edema", "Mass"), ("Edema", "Pleural Effusion", "X")),
                        ("Edema", "Pleural Effusion", "X"))  # fmt: skip
    assert notes == (
        "Scored under other names of the data: Effusion as Pleural Effusion (same).",
        "Labels without an output: X.",
        "Outputs without a label: Mass.",
    )
    assert match_notes(own_labels(LABELS), LABELS) == ()


def test_own_labels_match_themselves():
    assert match(LABELS, LABELS, one_set=True) == own_labels(LABELS)


def test_nothing_else_matches_unless_it_is_asked_for():
    outputs, labels = (
        ("Consolidation", "Edema", "Hernia", "Scar"),
        ("Lung Opacity", "hiatal hernia"),
    )
    text = refusal(outputs, labels)
    assert "none of the outputs, Consolidation, Edema, Hernia, Scar, is a label of the data" in text
    assert "--map OURS=THEIRS" in text
    matches = match(outputs, labels, "Consolidation=Lung Opacity", "Hernia=Hiatal_Hernia")
    assert pairs(matches) == {
        ("Consolidation", "Lung Opacity"): "part",
        ("Hernia", "hiatal hernia"): "near",
    }
    assert all(one.asked for one in scored_pairs(matches))
    (edema,) = [one for one in matches if one.ours == "Edema"]
    assert "--map 'Edema=Lung Opacity'" in edema.note
    assert (
        "Consolidation as Lung Opacity (part, asked for with --map)"
        in match_notes(matches, labels)[0]
    )
    assert pairs(match(outputs, labels, "Scar=Lung Opacity")) == {("Scar", "Lung Opacity"): ""}


def test_one_label_for_two_findings_is_said():
    outputs = ("Consolidation", "Edema")
    matches = match(outputs, ("Lung Opacity",), "Edema=Lung Opacity", "Consolidation=Lung Opacity")
    assert [one.ours for one in scored_pairs(matches)] == ["Consolidation", "Edema"]
    note = match_notes(matches, ("Lung Opacity",))[0]
    assert note.count("Lung Opacity serves more than one finding") == 2
    # Without being asked, the name goes before a synonym, and the other is left out.
    matches = match(("Effusion", "Pleural Effusion"), ("Pleural Effusion",))
    assert pairs(matches) == {("Pleural Effusion", "Pleural Effusion"): "name"}
    (other,) = [one for one in matches if not one.scored]
    assert other.ours == "Effusion" and "--map 'Effusion=Pleural Effusion'" in other.note


@pytest.mark.parametrize(
    ("maps", "problem"),
    [
        (["Infiltration=Consolidation"], "never mean the same"),
        (["Consolidation=Infiltration"], "never mean the same"),
        (["No Finding=No finding"], "never mean the same"),
        (["Masss=Lung Lesion"], "'Masss' is no finding of the model; use one of Mass, Infil"),
        (["Mass=Lesion"], "'Lesion' is no label of the data; use one of Lung Lesion, Infiltration"),
        (["Mass"], "OURS=THEIRS"),
        (["Mass=Lung Lesion", "mass=Infiltration"], "Mass is mapped already"),
    ],
)
def test_maps_that_are_refused(maps, problem):
    outputs = ("Mass", "Infiltration", "Consolidation", "No Finding")
    labels = ("Lung Lesion", "Infiltration", "Consolidation", "No finding")
    assert problem in refusal(outputs, labels, *maps)


names = st.lists(
    st.sampled_from(sorted({*LABELS, *CHEXPERT, "Mass ", "ILD", "Pleural effusion"})),
    min_size=1,
    unique=True,
)


@settings(max_examples=20)
@given(names, names)
def test_each_output_and_each_label_is_scored_at_most_once(outputs, labels):
    try:
        matches = match(outputs, labels)
    except UserError:
        return
    chosen = scored_pairs(matches)
    assert {one.relation for one in chosen} <= {"name", "same"}
    for side in ("output", "theirs"):
        assert len({getattr(one, side) for one in chosen}) == len(chosen)
    assert [one.theirs for one in chosen] == [x for x in labels if x in {m.theirs for m in chosen}]
