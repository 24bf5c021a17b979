"""Which items of a source are evaluated: those with certain columns and lengths, or a sample of them."""

import random
from collections.abc import Iterable, Mapping, Sequence

from ..errors import InputError
from ..sources import Item, Source, with_lengths


def choose(
    source: Source,
    where: Mapping[str, str | Sequence[str]],
    *,
    longer_than: float,
    limit: int | None,
    seed: int,
) -> list[Item]:
    """The items to evaluate, in the source's order.

    Args:
        source: of the items.
        where: the text that a column must have, or several of which it must have one.
        longer_than: seconds. An item whose length cannot be read stays, to be listed with the reason.
        limit: of items, drawn at random from those that are left; None takes all.
        seed: of the draw.

    Raises:
        InputError: nothing is left, no item has such a column, or two items share an id.
    """
    wanted = {name: {values} if isinstance(values, str) else set(values) for name, values in where.items()}
    everything = _once(source)
    for name in wanted:
        if not any(name in item.columns for item in everything):
            known = sorted({column for item in everything for column in item.columns})
            raise InputError(f"no item of {source.label} has a column {name!r}; there are {', '.join(known) or 'none'}")
    found = [item for item in everything if all(_text(item, name) in values for name, values in wanted.items())]
    if longer_than > 0:
        found = [item for item in with_lengths(source, found) if item.seconds > longer_than or item.seconds == 0]
    if not found:
        meant = [f"{name}={'|'.join(sorted(values))}" for name, values in wanted.items()]
        meant += [f"longer than {longer_than:g} s"] if longer_than > 0 else []
        raise InputError(f"no item of {source.label} is left: {', '.join(meant)}")
    if limit is None or limit >= len(found):
        return found
    return [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), limit))]


def label_of(item: Item, column: str) -> str:
    """The text of a column; "all" where the item has none."""
    return _text(item, column) or "all"


def choose_examples(items: Iterable[Item], by: str, count: int, seed: int) -> list[Item]:
    """A few items to listen to, of each group in turn."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(label_of(item, by), []).append(item)
    draw = random.Random(seed)
    for group in groups.values():
        draw.shuffle(group)
    longest = max(map(len, groups.values()), default=0)
    turns = [group[i] for i in range(longest) for group in groups.values() if i < len(group)]
    return turns[:count]


def _once(source: Source) -> list[Item]:
    """Every item; one that is listed again in the same words is the same item."""
    found: dict[str, Item] = {}
    for item in source.items():
        if found.setdefault(item.id, item) != item:
            raise InputError(f"{source.label} has two items called {item.id!r}: give each an id of its own")
    return list(found.values())


def _text(item: Item, column: str) -> str:
    value = item.columns.get(column)
    return "" if value is None else str(value)
