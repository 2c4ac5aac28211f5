"""The findings of a model beside the labels of the data that it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agcnn_jax.data.labels import NO_FINDING
from agcnn_jax.data.tables.synonyms import read_synonyms, relation
from agcnn_jax.data.text import plain
from agcnn_jax.runtime.errors import UserError

NAME, NEVER = "name", "never"


class Match(NamedTuple):
    """A finding of the model, a label of the data, or a pair of them.

    Attributes:
        ours: name of the model's output; "" for a label alone.
        theirs: the label's name; "" for an output alone.
        relation: `NAME` for one name but for capitals, spaces and underscores, else one of
            `synonyms.RELATIONS`, or "" where none is known.
        output: index of the output; -1 for a label alone.
        scored: the output is scored against the label.
        asked: with `--map`.
        note: why it is left out, or what to know about it; "" if nothing.
    """

    ours: str
    theirs: str
    relation: str
    output: int
    scored: bool
    asked: bool = False
    note: str = ""


def own_labels(labels: Sequence[str]) -> tuple[Match, ...]:
    """Match the outputs of a model with the labels of its own data."""
    return tuple(Match(label, label, NAME, i, True) for i, label in enumerate(labels))


def scored_pairs(matches: Sequence[Match]) -> list[Match]:
    """Return the pairs that are scored."""
    return [match for match in matches if match.scored]


def match_findings(
    outputs: Sequence[str],
    labels: Sequence[str],
    maps: Sequence[str] = (),
    *,
    name: str,
    one_set: bool,
) -> tuple[Match, ...]:
    """Decide which output is scored against which label.

    Pairs of one name match, and those that mean the same by the table of synonyms. Others match
    only where asked for; pairs that never mean the same are refused.

    Args:
        outputs: names of the model's outputs, "" for one that was not trained.
        labels: of the data.
        maps: pairs that were asked for, such as `Consolidation=Lung Opacity` (ours=theirs).
        name: the option that names the model, for messages.
        one_set: the model was trained on this collection, where `No Finding` means the same.

    Returns:
        The scored pairs in the order of the labels, then everything that is left out.

    Raises:
        UserError: if a map names an unknown or a repeated finding, or a pair that never means the
            same; or if nothing matches.
    """
    synonyms = read_synonyms()

    def relate(ours: str, theirs: str) -> str:
        known = relation(ours, theirs, synonyms)
        equal = plain(ours) == plain(theirs)
        same = one_set or plain(ours) != plain(NO_FINDING)
        return NAME if equal and same else NEVER if equal else known

    asked = [_parse(text, outputs, labels) for text in maps]
    for i, (output, theirs) in enumerate(asked):
        if relate(outputs[output], theirs) == NEVER:
            raise UserError(
                f"--map {maps[i]}: these never mean the same, see "
                f"agcnn_jax/data/tables/synonyms.csv; leave it out"
            )
        if output in [other for other, _ in asked[:i]]:
            raise UserError(
                f"--map {maps[i]}: {outputs[output]} is mapped already; map it to one label"
            )
    chosen: dict[int, str] = dict(asked)
    taken = set(chosen.values())
    for wanted in (NAME, "same"):
        for label in labels:
            for output, ours in enumerate(outputs):
                free = bool(ours) and output not in chosen and label not in taken
                if free and relate(ours, label) == wanted:
                    chosen[output] = label
                    taken.add(label)
    if not chosen:
        raise UserError(
            f"{name}: none of the outputs, {', '.join(outputs)}, is a label of the data: "
            f"{', '.join(labels)}; score data with one of these, or say with --map OURS=THEIRS "
            f"which mean the same"
        )
    shared = {label for label in taken if list(chosen.values()).count(label) > 1}
    pairs = [
        Match(
            outputs[output],
            label,
            relate(outputs[output], label),
            output,
            True,
            (output, label) in asked,
            f"{label} serves more than one finding" if label in shared else "",
        )
        for label in labels
        for output in sorted(chosen)
        if chosen[output] == label
    ]
    left_out = []
    for output, ours in enumerate(outputs):
        if ours and output not in chosen:
            near = [(label, relate(ours, label)) for label in labels if relate(ours, label)]
            left_out += [
                Match(ours, label, kind, output, False, note=_why(ours, label, kind, taken))
                for label, kind in near
            ] or [Match(ours, "", "", output, False, note="the data have no label for it")]
    named = {match.theirs for match in (*pairs, *left_out)}
    left_out += [
        Match("", label, "", -1, False, note="the model has no output for it")
        for label in labels
        if label not in named
    ]
    return (*pairs, *left_out)


def match_notes(matches: Sequence[Match], labels: Sequence[str]) -> tuple[str, ...]:
    """Name what is matched under two names, and what of the data's labels or ours is left out."""
    pairs = scored_pairs(matches)
    ours, theirs = {pair.ours for pair in pairs}, {pair.theirs for pair in pairs}
    others = dict.fromkeys(match.ours for match in matches if match.ours not in {"", *ours})
    lines = {
        "Scored under other names of the data": "; ".join(
            _in_words(pair) for pair in pairs if pair.relation != NAME or pair.note
        ),
        "Labels without an output": ", ".join(label for label in labels if label not in theirs),
        "Outputs without a label": ", ".join(others),
    }
    return tuple(f"{what}: {names}." for what, names in lines.items() if names)


def _in_words(pair: Match) -> str:
    facts = [pair.relation or "relation not known", "asked for with --map" * pair.asked, pair.note]
    return f"{pair.ours} as {pair.theirs} ({', '.join(filter(None, facts))})"


def _why(ours: str, theirs: str, kind: str, taken: set[str]) -> str:
    if kind == NEVER:
        return "never the same"
    if kind in (NAME, "same"):
        return f"{theirs} serves another finding; --map '{ours}={theirs}' scores this one too"
    return f"not the same finding; --map '{ours}={theirs}' scores the pair nevertheless"


def _parse(text: str, outputs: Sequence[str], labels: Sequence[str]) -> tuple[int, str]:
    """Return the output's index and the label of a `--map`."""
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise UserError(f"--map {text!r}: give a finding of the model and a label, OURS=THEIRS")
    sides = (("finding of the model", ours, outputs), ("label of the data", theirs, labels))
    places = []
    for what, wanted, known in sides:
        exact = [i for i, one in enumerate(known) if one and one == wanted.strip()]
        place = exact or [i for i, one in enumerate(known) if one and plain(one) == plain(wanted)]
        if not place:
            raise UserError(
                f"--map {text}: {wanted.strip()!r} is no {what}; use one of "
                f"{', '.join(filter(None, known))}"
            )
        places.append(place[0])
    return places[0], labels[places[1]]
