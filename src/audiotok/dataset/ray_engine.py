"""Beyond one machine: Ray Data reads on the CPUs of a cluster and encodes in actors that hold the tokenizer."""

import pickle
import time
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from ..errors import InputError, MissingDependencyError
from ..sources import Batch, Item, Source, read_batch
from ..tokenizer import Tokenizer
from .encoding import Encoded, encode_batch

_BATCHES_PER_ACTOR = 256  # in one Ray dataset: enough that its beginning and end cost nothing, few enough for the driver


def encode_on_ray(tokenizer: Tokenizer, source: Source, batches: Iterator[list[Item]]) -> Generator[Encoded]:
    """Encodes batches in whatever order the cluster finishes them.

    One actor for each GPU of the cluster, or for each CPU but one where there is no GPU: if actors had every CPU, none
    would be left to read and nothing would ever move. Tasks and actors that die are started again by Ray. The audio must
    be readable by every node.

    Args:
        tokenizer: sent to every actor.
        source: of the items.
        batches: taken as they are needed.

    Raises:
        MissingDependencyError: Ray is not installed. InputError: the cluster has no CPU.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors, resources, reading = _sizes(ray.cluster_resources(), tokenizer)
    on_gpu = "num_gpus" in resources
    weights = ray.put(pickle.dumps(tokenizer))
    while window := list(islice(batches, _BATCHES_PER_ACTOR * actors)):
        rows = [{"items": pickle.dumps(batch)} for batch in window]
        read = _Reading(source, tokenizer.spec.sample_rate, tokenizer.spec.channels)
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(read, num_cpus=reading)
        encoded = dataset.map(
            _Encoding, fn_constructor_args=(weights, on_gpu), concurrency=actors, **resources
        )
        for row in encoded.iter_rows():
            yield pickle.loads(row["encoded"])


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("engine='ray' needs Ray: pip install 'audiotok[ray]'") from error
    return ray


def _sizes(cluster: dict[str, float], tokenizer: Tokenizer) -> tuple[int, dict[str, float], float]:
    """How many actors, what each takes, and the CPUs of a reading task.

    Example:
        >>> _sizes({"CPU": 2.0}, None), _sizes({"CPU": 1.0}, None)
        ((1, {'num_cpus': 1.0}, 1.0), (1, {'num_cpus': 0.5}, 0.5))
        >>> _sizes({"CPU": 64.0, "GPU": 8.0}, None)
        (8, {'num_cpus': 1.0, 'num_gpus': 1.0}, 1.0)
    """
    cpus, gpus = int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    if cpus < 1:
        raise InputError("the Ray cluster has no CPU to read audio with")
    share = 1.0 if cpus > max(1, gpus) else 0.5 * cpus / max(1, gpus)
    if gpus:
        return gpus, {"num_cpus": share, "num_gpus": 1.0}, share
    return max(1, cpus - 1), {"num_cpus": share}, share


class _Reading:
    """Reads a batch: what a task does."""

    def __init__(self, source: Source, sample_rate: int, channels: int) -> None:
        self.source, self.sample_rate, self.channels = source, sample_rate, channels

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        batch = read_batch(self.source, pickle.loads(row["items"]), self.sample_rate, self.channels)
        return {"batch": pickle.dumps(batch)}


class _Encoding:
    """Encodes a batch: what an actor does."""

    def __init__(self, weights: Any, on_gpu: bool) -> None:
        import ray

        self.tokenizer: Tokenizer = pickle.loads(ray.get(weights)).to("cuda" if on_gpu else "cpu")
        self.ended = time.perf_counter()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        batch: Batch = pickle.loads(row["batch"])
        encoded = encode_batch(self.tokenizer, batch)
        encoded.waiting, self.ended = started - self.ended, time.perf_counter()
        encoded.computing = self.ended - started
        return {"encoded": pickle.dumps(encoded)}
