"""Train several models, as many at a time as there are cores, each in a process of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from command_line import FailedWork

Key = Hashable  # of a training, such as its bandwidth and seed
Scores = dict[str, float]
report_to_main: Callable | None = None  # in a worker process: sends a report to the main process


def train_all(
    train_level: Callable[..., Scores], trainings: dict[Key, tuple], n_jobs: int, show: Callable
) -> dict[Key, Scores | FailedWork]:
    """Train several models.

    Args:
        train_level: Function that trains one bandwidth and returns its scores. Its last argument is called with reports of
            its progress.
        trainings: For each training: the other arguments of `train_level`.
        n_jobs: Number of trainings at a time. 1: one after the other, in this process.
        show: Function that shows a report.

    Returns:
        For each its scores, or the error if it failed. The others go on.
    """
    if n_jobs == 1:
        return {key: scores_or_failure(train_level, *args, show) for key, args in trainings.items()}
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    with ProcessPoolExecutor(n_jobs, context, start_worker, (reports,)) as pool:
        try:
            futures = {key: pool.submit(train_in_worker, train_level, *args) for key, args in trainings.items()}
            for future in futures.values():
                future.add_done_callback(lambda _: reports.put(None))
            n_running = len(futures)
            while n_running:
                report = reports.get()
                n_running -= report is None
                if report is not None:
                    show(report)
        except KeyboardInterrupt:
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
        return FailedWork("a process of this run was killed, perhaps for lack of memory; try a lower --jobs")


def start_worker(reports: multiprocessing.SimpleQueue) -> None:
    """Prepare a worker process: it ignores Ctrl-C, and it ends when the main process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global report_to_main
    report_to_main = reports.put
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Wait until the parent process has ended, then end this one."""
    multiprocessing.parent_process().join()
    os._exit(1)


def train_in_worker(train_level: Callable[..., Scores], *args: object) -> Scores:
    """Train one bandwidth in a worker process, with reports to the main process."""
    return train_level(*args, report_to_main)
