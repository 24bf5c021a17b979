"""Beyond one machine: Ray Data reads audio on the CPUs of a cluster and works on it in actors that hold a network."""

import pickle
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, Protocol

from .errors import InputError, MissingDependencyError
from .sources import Batch, Item, Source, read_batch

_BATCHES_PER_ACTOR = (
    256  # in one Ray dataset: enough that its beginning and end cost nothing, few enough for the driver
)


class Work(Protocol):
    """What actors do. It is pickled; its networks are on the CPU then."""

    def start(self, device: str) -> None:
        """Called once in every actor, before anything else."""
        ...

    def __call__(self, batch: Batch, note: Any) -> Any:
        """What comes of a batch, to be pickled; note is what was given with the batch."""
        ...


def on_cluster(
    work: Work,
    source: Source,
    batches: Iterator[tuple[list[Item], Any]],
    *,
    sample_rate: int,
    channels: int,
    in_order: bool = False,
    window: int = _BATCHES_PER_ACTOR,
) -> Generator[Any]:
    """What `work` makes of every batch.

    One actor for each GPU of the cluster, or for each CPU but one where there is no GPU: if actors had every CPU, none
    would be left to read and nothing would ever move. Tasks and actors that die are started again by Ray. Every node
    must be able to read the audio. A cluster that Ray is connected to is used, else one of this machine is started.

    Args:
        work: sent to every actor.
        source: of the items.
        batches: items with a note for `work`, taken as they are needed.
        sample_rate: to read at, in Hz.
        channels: to read.
        window: batches for each actor that are taken together.
        in_order: whether results come in the order of the batches, and not as soon as they are there.

    Raises:
        MissingDependencyError: Ray is not installed. InputError: the cluster has no CPU.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = in_order
    actors, resources, reading = _sizes(ray.cluster_resources())
    device = "cuda" if "num_gpus" in resources else "cpu"
    pickled = ray.put(pickle.dumps(work))
    read = _Reading(source, sample_rate, channels)
    while tasks := list(islice(batches, window * actors)):
        rows = [{"task": pickle.dumps(task)} for task in tasks]
        loaded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(read, num_cpus=reading)
        done = loaded.map(_Working, fn_constructor_args=(pickled, device), concurrency=actors, **resources)
        for row in done.iter_rows():
            yield pickle.loads(row["result"])


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("engine='ray' needs Ray: pip install 'audiotok[ray]'") from error
    return ray


def _sizes(cluster: dict[str, float]) -> tuple[int, dict[str, float], float]:
    """How many actors, what each takes, and the CPUs of a reading task.

    Example:
        >>> _sizes({"CPU": 2.0}), _sizes({"CPU": 1.0})
        ((1, {'num_cpus': 1.0}, 1.0), (1, {'num_cpus': 0.5}, 0.5))
        >>> _sizes({"CPU": 64.0, "GPU": 8.0})
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
        items, note = pickle.loads(row["task"])
        batch = read_batch(self.source, items, self.sample_rate, self.channels)
        return {"task": pickle.dumps((batch, note))}


class _Working:
    """What an actor does."""

    def __init__(self, pickled: Any, device: str) -> None:
        import ray

        self.work: Work = pickle.loads(ray.get(pickled))
        self.work.start(device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(self.work(*pickle.loads(row["task"])))}
