"""Train several models, as many at a time as there are cores, each in a process of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait

import torch

from command_line import FailedWork

MAX_PIPES = 200  # the server passes at most 251 to a worker
Key = Hashable  # of a training, such as its bandwidth and seed
Scores = dict[str, float]
reports_of: dict[Key, Connection] = {}  # in a worker process: where the reports of each training go


def use_one_thread() -> None:
    """Compute on one thread: two processes of one thread each are faster than one process of two.

    Numbers below 1e-38 become zero. Gradients of a long trial's first bins are such, and slow a CPU
    down ten times.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def train_all(
    train_level: Callable[..., Scores], trainings: dict[Key, tuple], n_jobs: int, show: Callable
) -> dict[Key, Scores | FailedWork]:
    """Train several models.

    Args:
        train_level: Function that trains one bandwidth and returns its scores. Its last argument is
            called with reports of its progress.
        trainings: For each training: the other arguments of `train_level`.
        n_jobs: Number of trainings at a time. 1: one after the other, in this process.
        show: Function that shows a report.

    Returns:
        For each its scores, or the error if it failed. The others go on.
    """
    if n_jobs == 1:
        return {key: scores_or_failure(train_level, *args, show) for key, args in trainings.items()}
    # workers are forked from a server that has imported Lightning, which takes seconds; not on
    # Windows
    is_forked = (
        "forkserver" in multiprocessing.get_all_start_methods() and len(trainings) <= MAX_PIPES
    )
    context = multiprocessing.get_context("forkserver" if is_forked else "spawn")
    if is_forked:
        context.set_forkserver_preload(["pytorch_lightning"])
    # a pipe for each training needs no lock, which a process that is killed would never give back
    pipes = {key: context.Pipe(duplex=False) for key in trainings}
    ended, end = context.Pipe(duplex=False)
    writers = {key: writer for key, (_, writer) in pipes.items()}
    with ProcessPoolExecutor(n_jobs, context, start_worker, (writers,)) as pool:
        try:
            futures = {
                key: pool.submit(train_in_worker, train_level, key, *args)
                for key, args in trainings.items()
            }
            for future in futures.values():
                future.add_done_callback(lambda _: end.send(None))
            n_running = len(futures)
            while n_running:
                ready = wait([ended, *(reader for reader, _ in pipes.values())])
                if ready == [ended]:  # and no report is left
                    ended.recv()
                    n_running -= 1
                for reader in ready:
                    if reader is not ended:
                        show(reader.recv())
        except BaseException:  # Ctrl-C, or a terminal that is gone
            for worker in multiprocessing.active_children():
                worker.kill()
            raise
    return {key: scores_or_failure(future.result) for key, future in futures.items()}


def scores_or_failure(train: Callable[..., Scores], *args: object) -> Scores | FailedWork:
    """Return what `train` returns, or the error if the training failed."""
    try:
        return train(*args)
    except FailedWork as error:
        return error
    except BrokenProcessPool:
        return FailedWork(
            "a process of this run was killed, perhaps for lack of memory; try a lower --jobs"
        )


def start_worker(writers: dict[Key, Connection]) -> None:
    """Prepare a worker process: it ignores Ctrl-C, and it ends when the main process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports_of.update(writers)
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Wait until the parent process has ended, then end this one."""
    multiprocessing.parent_process().join()
    os._exit(1)


def train_in_worker(train_level: Callable[..., Scores], key: Key, *args: object) -> Scores:
    """Train one bandwidth in a worker process, with reports to the main process."""
    return train_level(*args, reports_of[key].send)
