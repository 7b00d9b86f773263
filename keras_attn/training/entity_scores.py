"""How many named entities a tagger finds, as seqeval counts them."""

from collections.abc import Sequence

OUTSIDE = "O"


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities in a row of tags: type, first position, last position.

    B-x begins an entity of type x, I-x goes on with one; an I-x after another type, or after O,
    begins one too. E-x ends an entity and S-x is one by itself, where the tags have them.

    Raises:
        ValueError: a tag that is neither O nor one of these letters, a hyphen and a type.

    Example:
    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
    [('LOC', 3, 3), ('PER', 0, 1)]
    """
    found, start, previous = set(), None, (OUTSIDE, "")
    for position, tag in enumerate((*tags, OUTSIDE)):
        letter, kind = _parse(tag)
        if start is not None and (_begins(previous, letter, kind) or letter == OUTSIDE):
            found.add((previous[1], start, position - 1))
            start = None
        if start is None and letter != OUTSIDE:
            start = position
        previous = letter, kind
    return found


def entity_scores(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities over all rows together: type and both ends must agree.

    Args:
        true: rows of tags.
        predicted: rows of tags, as long as those of `true`.

    Returns:
        a dict of precision, recall and f1, in [0, 1]; 0 where there is nothing to divide by.

    Raises:
        ValueError: rows of unequal number or length; an unknown tag.

    Source: Tjong Kim Sang and De Meulder 2003, section 4; the micro average of seqeval.

    Example:
    >>> entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666}
    """
    lengths = [len(row) for row in true], [len(row) for row in predicted]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"`predicted` must have rows as long as those of `true`, {lengths[0][:5]} ..., "
            f"got {lengths[1][:5]} ..."
        )
    right = wanted = given = 0
    for true_row, predicted_row in zip(true, predicted, strict=True):
        first, second = entities(true_row), entities(predicted_row)
        right += len(first & second)
        wanted += len(first)
        given += len(second)
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _parse(tag: str) -> tuple[str, str]:
    letter, _, kind = tag.partition("-")
    if tag != OUTSIDE and (letter not in ("B", "I", "E", "S") or not kind):
        raise ValueError(f"a tag must be O, or B-, I-, E- or S- and a type, got {tag!r}")
    return letter, kind


def _begins(previous: tuple[str, str], letter: str, kind: str) -> bool:
    """Whether a tag that is not O begins a new entity after the previous tag."""
    return letter in ("B", "S") or previous[0] in ("E", "S") or previous[1] != kind
