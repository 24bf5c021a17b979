"""What worker processes do: run a system over items and measure what comes out."""

import contextlib
import io
import os
import zlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import torch
from torch import Tensor

from .. import audio
from ..errors import AudiotokError, InputError
from ..sources import Item, Source
from ..workers import live_with
from .metric_base import FAILURES
from .metrics import Example, measure
from .rows import Row
from .systems import System, TokenizerSystem, open_system, size_in_bits

EXAMPLE_SECONDS = 5.0  # of an item to listen to
_AHEAD = 3  # tasks for each process


@dataclass(frozen=True)
class Todo:
    """An item, the metrics it lacks in a system, and whether to keep its audio."""

    item: Item
    metrics: tuple[str, ...]
    keep_audio: bool


@dataclass(frozen=True)
class Task:
    """Some items of a system, by its place in the list of systems."""

    system: int
    todo: tuple[Todo, ...]


@dataclass(frozen=True)
class Setting:
    """What holds for the whole run; it travels to every process."""

    source: Source
    systems: tuple[str, ...]
    sample_rate: int
    device: str
    seed: int


class Worker:
    """Does tasks, and keeps the system of the last one open."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._number = -1
        self._system: System | None = None

    def __call__(self, task: Task) -> list[Row]:
        if self._system is None or task.system != self._number:
            self._system = None  # before the next is opened: two may not fit in memory
            self._system = open_system(self.setting.systems[task.system], self.setting.device)
            self._number = task.system
        return [self._measure(self._system, todo) for todo in task.todo]

    def _measure(self, system: System, todo: Todo) -> Row:
        item, rate = todo.item, self.setting.sample_rate
        try:
            wav = self.setting.source.read(item, rate, 1)
            if wav.shape[1] == 0:
                raise InputError(f"{item.id} holds no samples")
        except FAILURES as error:
            return Row(item.id, unreadable=_reason(error))
        try:
            with _seeded(self.setting.seed, item.id):
                if isinstance(system, TokenizerSystem) and not system.tokenizer.spec.decodable:
                    return _encoded(system, wav, rate, todo)
                outcome = system.run(wav, rate)
        except FAILURES as error:
            return Row(item.id, not_coded=_reason(error))
        found = measure(todo.metrics, Example(wav[0], outcome.wav[0], rate, item.columns))
        return Row(
            item.id,
            seconds=wav.shape[1] / rate,
            bits=float(outcome.bits),
            encode_seconds=outcome.encode_seconds,
            decode_seconds=outcome.decode_seconds,
            values={name: value for name, value in found.items() if not isinstance(value, str)},
            reasons={name: " ".join(value.split()) for name, value in found.items() if isinstance(value, str)},
            tokens=None if outcome.codes is None else outcome.codes.tokens[0].cpu().numpy(),
            flac=flac_of(outcome.wav, rate) if todo.keep_audio else None,
        )


def run_tasks(setting: Setting, tasks: Sequence[Task], num_processes: int) -> Generator[tuple[Task, list[Row]]]:
    """Does tasks, one thread to each process, so that numbers do not depend on how many there are.

    Args:
        setting: of the run.
        tasks: in the order they are begun.
        num_processes: 1 works in this process.

    Yields:
        Tasks and their rows, as they are finished.

    Raises:
        AudiotokError: a process was killed.
    """
    if num_processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            worker = Worker(setting)
            for task in tasks:
                yield task, worker(task)
        finally:
            torch.set_num_threads(threads)
        return
    with _one_thread_each():
        pool = ProcessPoolExecutor(num_processes, get_context("spawn"), _start, (setting, os.getpid()))
        try:
            yield from _in_pool(pool, tasks, _AHEAD * num_processes)
        except BrokenProcessPool as error:
            raise AudiotokError(
                "a process of the evaluation was killed, for lack of memory or by hand: what was finished is kept, run "
                "again to go on. In a script of your own, evaluate() must be called under if __name__ == '__main__':"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def flac_of(wav: Tensor, sample_rate: int) -> bytes:
    """The beginning of wav [1, T] as FLAC of 16 bits."""
    data = io.BytesIO()
    audio.save(data, wav[:, : round(EXAMPLE_SECONDS * sample_rate)].clamp(-1, 1), sample_rate, format="FLAC")
    return data.getvalue()


def _encoded(system: TokenizerSystem, wav: Tensor, rate: int, todo: Todo) -> Row:
    """What there is of a tokenizer that only encodes: its codes."""
    codes, seconds = system.encode(wav, rate)
    reason = f"{system.tokenizer.spec.name} only encodes: there is no audio of it to compare"
    return Row(
        todo.item.id,
        seconds=wav.shape[1] / rate,
        bits=size_in_bits(codes),
        encode_seconds=seconds,
        reasons=dict.fromkeys(todo.metrics, reason),
        tokens=codes.tokens[0].cpu().numpy(),
    )


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _seeded(seed: int, item: str) -> Iterator[None]:
    """Decoders that draw noise draw the same for an item, whoever does it and when."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed} {item}".encode("utf-8", "backslashreplace")))
        yield


# ---- processes -------------------------------------------------------------------------------------------------------

_worker: Worker | None = None  # of this process, where it is one of the pool's


def _in_pool(pool: ProcessPoolExecutor, tasks: Sequence[Task], ahead: int) -> Iterator[tuple[Task, list[Row]]]:
    left = iter(tasks)
    waiting: dict[Future[list[Row]], Task] = {}
    while True:
        waiting |= {pool.submit(_work, task): task for task in islice(left, ahead - len(waiting))}
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()


def _start(setting: Setting, parent: int) -> None:
    global _worker
    live_with(parent)
    torch.set_num_threads(1)
    _worker = Worker(setting)


def _work(task: Task) -> list[Row]:
    assert _worker is not None  # _start has run
    return _worker(task)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """The environment that processes started within find: their BLAS and ONNX take one thread, as torch does."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
