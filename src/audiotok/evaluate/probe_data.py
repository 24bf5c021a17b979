"""What probes learn from: codes with the labels of their manifest, and a fair split of them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..codes import Codes
from ..errors import InputError


@dataclass(frozen=True)
class LabelledCodes:
    """One item of a data set.

    Attributes:
        codes: one row.
        labels: its columns in the manifest: "speaker", "language", ...; None or empty where one is not known.
    """

    codes: Codes
    labels: Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Items for training and items held out, each with the number of its label.

    Attributes:
        names: the labels, in order of their numbers.
        train: items and label numbers.
        held_out: the same of other items; of other groups, if the split was by group.
    """

    names: tuple[str, ...]
    train: tuple[tuple[LabelledCodes, int], ...]
    held_out: tuple[tuple[LabelledCodes, int], ...]

    @property
    def chance(self) -> float:
        """Accuracy on the items held out of always guessing the label that is most frequent in training."""
        counts = torch.bincount(torch.tensor([number for _, number in self.train]))
        guess = int(counts.argmax())
        return sum(number == guess for _, number in self.held_out) / len(self.held_out)


def split_items(
    items: Sequence[LabelledCodes], label: str, *, group: str | None, seed: int, held_out: float, per_label: int
) -> Split:
    """Chooses items at random, as many as `per_label` of each label, and holds some of them out.

    Without a group the share `held_out` of each label's items is held out, one at least and never all. With one, items
    that share a group stay together, on the same side for all labels: groups are held out, in random order, that take
    the last training item from no label, until every label that can have one has a group held out.

    Args:
        items: those without the label, the group or a single frame are left out.
        label: the column to be told.
        group: a column whose values are not to be on both sides, such as "speaker" for languages; or None.
        seed: of everything random.
        held_out: share of items, above 0 and below 1.
        per_label: the most items of a label on each side of a split by group, and on both sides of another.

    Raises:
        InputError: fewer than two labels with two items, or two groups, each.
    """
    generator = torch.Generator().manual_seed(seed)
    needed = [label] if group is None else [label, group]
    known = [item for item in items if item.codes.tokens.shape[2] and all(_text(item, name) for name in needed)]
    by_label: dict[str, list[LabelledCodes]] = defaultdict(list)
    for i in torch.randperm(len(known), generator=generator).tolist():
        by_label[_text(known[i], label)].append(known[i])
    kinds = {
        name: {_text(item, group) if group else str(i) for i, item in enumerate(found)}
        for name, found in by_label.items()
    }
    names = sorted(name for name, groups in kinds.items() if len(groups) > 1)
    if len(names) < 2:
        wanted = f"two values of {group!r}" if group else "two items"
        raise InputError(f"a probe of {label!r} wants two labels of {wanted} each or more, found {names}")
    train, kept = [], []
    away = _groups_held_out([kinds[name] for name in names], generator) if group else set()
    for number, name in enumerate(names):
        found = by_label[name]
        if group:
            sides = [[item for item in found if (_text(item, group) in away) == out] for out in (False, True)]
            sides = [side[:per_label] for side in sides]
        else:
            found = found[:per_label]
            count = min(len(found) - 1, max(1, round(held_out * len(found))))
            sides = [found[count:], found[:count]]
        train += [(item, number) for item in sides[0]]
        kept += [(item, number) for item in sides[1]]
    return Split(tuple(names), tuple(train), tuple(kept))


def _text(item: LabelledCodes, name: str) -> str:
    """Of a label; empty where it is not known."""
    value = item.labels.get(name)
    return "" if value is None else str(value)


def _groups_held_out(kinds: Sequence[set[str]], generator: torch.Generator) -> set[str]:
    """Groups to hold out, given those of each label, as `split_items` says."""
    groups = sorted({group for one in kinds for group in one})
    away: set[str] = set()
    for i in torch.randperm(len(groups), generator=generator).tolist():
        members = [one for one in kinds if groups[i] in one]
        if all(one - away != {groups[i]} for one in members) and any(not one & away for one in members):
            away.add(groups[i])
    return away


def with_label(
    items: Sequence[LabelledCodes], label: str, pattern: str, *, column: str = "path"
) -> list[LabelledCodes]:
    """Adds a label that another column says in passing, most often the path.

    Args:
        items: those whose column does not match are passed through as they are.
        label: the column to add.
        pattern: regular expression, searched for in the column's text; the label is the first of its groups that takes
            part in the match, in lower case.
        column: where to look.

    Raises:
        InputError: no such regular expression, or one without a group.

    Example:
        >>> from audiotok import Spec
        >>> spec = Spec("demo", sample_rate=100, hop_length=100, codebook_sizes=(2,))
        >>> codes = Codes(torch.zeros(1, 1, 1, dtype=torch.int64), torch.tensor([1]), torch.tensor([100]), spec)
        >>> items = [LabelledCodes(codes, {"path": "voices/Anna/digits/7.flac"})]
        >>> with_label(items, "word", r"digits/(\\w+)\\.")[0].labels["word"]
        '7'
    """
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from error
    if not search.groups:
        raise InputError(f"{pattern!r} has no group: put what is the label in parentheses")
    found = []
    for item in items:
        match = search.search(str(item.labels.get(column) or ""))
        groups = [] if match is None else [group for group in match.groups() if group is not None]
        found.append(LabelledCodes(item.codes, {**item.labels, label: groups[0].lower()}) if groups else item)
    return found
