import itertools

import pytest

from agcnn_jax.data.labels import LABELS
from agcnn_jax.data.tables.synonyms import RELATIONS, canonical, read_synonyms, relation
from agcnn_jax.data.text import plain

SYNONYMS = read_synonyms()


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("Effusion", "Pleural Effusion", "same"),
        ("Effusion", "pleural_effusion", "same"),
        ("Fibrosis", "Pulmonary fibrosis", "same"),
        ("Pleural_Thickening", "pleural thickening", "same"),
        ("Mass", "Mass", "same"),
        ("RSNA Target", "Airspace Opacity", "same"),
        ("Consolidation", "Lung Opacity", "part"),
        ("Consolidation", "Airspace opacity", "part"),
        ("Lung Opacity", "Consolidation", ""),
        ("Hernia", "hiatal hernia", "near"),
        ("hiatal hernia", "Hernia", "near"),
        ("Infiltrate", "Airspace Opacity", "never"),
        ("Lung Opacity", "Infiltration", "never"),
        ("Mass", "Nodule/Mass", "never"),
        ("No Finding", "No finding", "never"),
        ("Effusion", "Pericardial effusion", ""),
        ("Nodule", "Pseudonodule", ""),
    ],
)
def test_relation(ours, theirs, expected):
    assert relation(ours, theirs, SYNONYMS) == expected


def test_rows_are_of_different_pairs_with_a_reason():
    assert all(row.relation in RELATIONS and row.note for row in SYNONYMS)
    pairs = [frozenset((plain(row.name), plain(row.means))) for row in SYNONYMS]
    assert len(set(pairs)) == len(pairs)


def test_one_name_stands_for_all_that_mean_the_same():
    """No chains; the paper's names are never replaced, so runs keep their findings."""
    for row in SYNONYMS:
        assert canonical(canonical(row.name, SYNONYMS), SYNONYMS) == canonical(row.name, SYNONYMS)
    assert [canonical(name, SYNONYMS) for name in LABELS] == list(LABELS)


def test_the_paper_s_findings_are_fourteen_different_ones():
    names = {row.name for row in SYNONYMS} | {row.means for row in SYNONYMS} | set(LABELS)
    pairs = list(itertools.combinations(LABELS, 2))
    assert not [pair for pair in pairs if relation(*pair, SYNONYMS) in ("same", "part", "near")]
    for one, other in itertools.combinations_with_replacement(sorted(names), 2):
        there, back = relation(one, other, SYNONYMS), relation(other, one, SYNONYMS)
        assert there == back or {there, back} == {"part", ""}
