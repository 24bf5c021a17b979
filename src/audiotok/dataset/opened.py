"""`open_codes`: a folder of tokens as a torch dataset."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import read_json
from ..errors import CheckpointError
from ..spec import Spec
from .codes_dataset import CodesDataset
from .mapped import map_shards
from .shards import PATTERN, read_shard_facts, shard_name

_CARD = "card.json"
_CACHE = ".opened"


def open_codes(
    folder: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    columns: Sequence[str] | None = None,
) -> CodesDataset:
    """A folder that `tokenize_dataset` wrote, or is still writing, as a torch dataset.

    The first call writes the tokens once more, uncompressed, so that any row can be read at once; later calls do so
    only for shards that are new or were changed. Any number of processes may open the same folder.

    Args:
        folder: with data/tokens-00000.parquet and so on, and card.json.
        cache_dir: for the uncompressed tokens; None puts them into FOLDER/.opened. It may be shared by any number of
            datasets, and emptied at any time while none is in use.
        columns: names of carried columns that rows are to have; None is all of them.

    Returns:
        The dataset; of a folder that is not finished what is there by now.

    Raises:
        CheckpointError: the folder is none of tokens, or a shard is missing, broken, of another tokenizer or
            contradicts itself. InputError: there is no such column, or no place for the uncompressed tokens.
        OSError: the disk is full. MissingDependencyError: pyarrow is not installed.

    Example:
        dataset = audiotok.open_codes("tokens/")
        loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=2, collate_fn=Collate(dataset.spec))
    """
    path = Path(folder)
    card = read_json(path / _CARD) if (path / _CARD).exists() else {}
    shards = _shards(path, card)
    spec, fingerprint = _tokenizer(path, card, shards)
    cache = (
        path / _CACHE if cache_dir is None else Path(cache_dir, hashlib.sha256(bytes(path.resolve())).hexdigest()[:16])
    )
    mapped = map_shards(shards, cache, spec, fingerprint)
    return CodesDataset(mapped, spec, fingerprint, card, columns)


def _shards(folder: Path, card: dict[str, Any]) -> list[Path]:
    """The shards of a folder, by their numbers."""
    found = set(folder.glob(PATTERN))
    counts = card.get("counts")
    stated = counts.get("shards") if isinstance(counts, dict) else None
    if not found and not card:
        raise CheckpointError(f"{folder} is no dataset of tokens: it has neither {shard_name(0)} nor {_CARD}")
    shards = [
        folder / shard_name(number) for number in range(max(len(found), stated if isinstance(stated, int) else 0))
    ]
    for shard in shards:
        if shard not in found:
            raise CheckpointError(f"{shard} is missing: copy the dataset again, or tokenize it again")
    return shards


def _tokenizer(folder: Path, card: dict[str, Any], shards: Sequence[Path]) -> tuple[Spec, str]:
    """The spec and the fingerprint of all shards: what the card says, or where there is none the first of them."""
    if not card:
        return read_shard_facts(shards[0])
    try:
        facts = card["tokenizer"]
        return Spec.from_dict(facts["spec"]), str(facts["fingerprint"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / _CARD} does not say which tokenizer made the tokens: {error!r}") from error
