"""Several devices of one machine: a process each, all taking batches from one queue."""

import copy
import os
import pickle
import queue
import signal
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import multiprocessing

from ..errors import AudiotokError
from ..hub import resolve_device
from ..sources import Item, Source
from ..tokenizer import Tokenizer
from .encoding import Encoded, encode_batches

_PATIENCE = 2.0  # seconds between looks at whether the others are alive


def encode_on_devices(
    tokenizer: Tokenizer,
    source: Source,
    batches: Iterator[list[Item]],
    devices: Sequence[str],
    *,
    num_workers: int,
) -> Generator[Encoded]:
    """Encodes batches in whatever order the devices finish them.

    Args:
        tokenizer: copied to every device.
        source: of the items.
        batches: taken as they are needed.
        devices: such as ["cuda:0", "cuda:1"].
        num_workers: processes that read, for all devices together, at least one for each.

    Raises:
        AudiotokError: a process died. InputError: there is no such device.
    """
    for device in devices:
        resolve_device(device)
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    each = -(-num_workers // len(devices))
    plain = copy.deepcopy(tokenizer).to("cpu")
    processes = [
        context.Process(target=_serve, args=(plain, device, source, tasks, results, each, os.getpid()), name=device)
        for device in devices
    ]
    try:
        for process in processes:
            process.start()
        ahead = len(devices) * (2 * each + 2)
        given = finished = 0
        more = True
        while more or finished < given:
            while more and given - finished < ahead:
                batch = next(batches, None)
                more = batch is not None
                if more:
                    tasks.put(batch)
                    given += 1
                else:
                    for _ in devices:
                        tasks.put(None)
            if finished < given:
                yield _next_result(results, processes)
                finished += 1
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()


def _next_result(results: Any, processes: Sequence[Any]) -> Encoded:
    while True:
        try:
            found = pickle.loads(results.get(timeout=_PATIENCE))
        except queue.Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise AudiotokError(
                    f"the process of {dead[0].name} was killed (exit code {dead[0].exitcode}), for lack of memory or "
                    "by hand: run again to go on"
                ) from None
            continue
        if isinstance(found, Encoded):
            return found
        raise AudiotokError(f"the process of {found[0]} failed: {found[1]}")


def _serve(
    tokenizer: Tokenizer, device: str, source: Source, tasks: Any, results: Any, num_workers: int, parent: int
) -> None:
    """What a device's process does. Results go as bytes: a tensor of its own would cost an open file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us, which stops us
    try:
        on_device = tokenizer.to(device)
        with torch.device("cpu"):
            for encoded in encode_batches(on_device, source, _batches_of(tasks, parent), num_workers=num_workers):
                results.put(pickle.dumps(encoded))
    except Exception as error:  # whatever it is, the other side must hear of it
        results.put(pickle.dumps((device, f"{type(error).__name__}: {error}")))
        raise


def _batches_of(tasks: Any, parent: int) -> Iterator[list[Item]]:
    while True:
        try:
            batch = tasks.get(timeout=_PATIENCE)
        except queue.Empty:
            if os.getppid() != parent:
                os._exit(1)  # nobody is left to hear of results
            continue
        if batch is None:
            return
        yield batch
