"""Do several tasks at a time: in processes of this machine, or on a Ray cluster."""

import functools
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType

import torch
from jsonargparse import Namespace

from command_line import FailedWork, InputError
from training.flags import ROOT
from training.options import may_use_gpus

N_ON_GPU = 8  # runs at a time on each GPU
N_RETRIES = 3  # of a task on a cluster whose process was killed
NOT_SENT = [".git", "lightning_logs", "figures", "docs", "tests"]  # to the machines of a cluster
Tasks = dict[Hashable, tuple]  # arguments of the function that does a task
Results = dict[Hashable, object]  # what the function returns, or FailedWork


def n_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def default_jobs() -> int:
    """Return how many runs to train at a time: as many as cores, at most N_ON_GPU on each GPU."""
    n_gpus = torch.cuda.device_count()
    return min(n_cores(), N_ON_GPU * n_gpus) if n_gpus else n_cores()


def use_one_thread() -> None:
    """Compute on one thread: two processes of one thread each beat one process of two.

    Numbers below 1e-38 become zero. Gradients of a long trial's first bins are such, and slow a CPU
    down ten times.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def do_tasks(function: Callable, tasks: Tasks, config: Namespace, folder: Path) -> Results:
    """Do tasks where the options say.

    Args:
        function: Does a task. It catches its own errors.
        tasks: Its arguments.
        config: Options of a sweep.
        folder: Folder of the sweep.
    """
    if config.cluster != "local":
        return work_on_cluster(function, tasks, config.cluster, folder, may_use_gpus(config))
    jobs = default_jobs() if config.jobs is None else config.jobs
    return work_here(function, tasks, min(jobs, len(tasks)))


def work_here(function: Callable, tasks: Tasks, n_jobs: int) -> Results:
    """Do tasks in processes of this machine, `n_jobs` at a time. 1: in this process."""
    if n_jobs <= 1:
        return {key: function(*arguments) for key, arguments in tasks.items()}
    # workers are forked from a server that has imported Lightning, which takes seconds
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        context.set_forkserver_preload(["pytorch_lightning"])
    with ProcessPoolExecutor(n_jobs, context, start_worker) as pool:
        try:
            futures = {key: pool.submit(function, *task) for key, task in tasks.items()}
            return {
                key: wait_for(future.result, BrokenProcessPool) for key, future in futures.items()
            }
        except BaseException:  # Ctrl-C, or a terminal that is gone
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def wait_for(result: Callable[[], object], lost: type[Exception]) -> object:
    """Return a result, or FailedWork if its process was lost."""
    try:
        return result()
    except lost:
        return FailedWork("its process was killed, perhaps for lack of memory; try a lower --jobs")


def start_worker() -> None:
    """Prepare a worker process: it ignores Ctrl-C, and it ends when the main process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait until the parent process has ended, then end this one."""
    multiprocessing.parent_process().join()
    os._exit(1)


def work_on_cluster(
    function: Callable, tasks: Tasks, address: str, folder: Path, uses_gpus: bool
) -> Results:
    """Do tasks on a Ray cluster, each on one core. Ray repeats one whose process was killed.

    Args:
        function: Does a task.
        tasks: Its arguments.
        address: Of the cluster.
        folder: Where the tasks write, seen by all machines. It holds config.yaml.
        uses_gpus: Whether each task takes a GPU, if the cluster has any.
    """
    ray = connect(address)
    n_gpus = min(1, int(ray.cluster_resources().get("GPU", 0))) if uses_gpus else 0
    task = ray.remote(num_cpus=1, num_gpus=n_gpus, max_retries=N_RETRIES)(work_there)
    begun = {key: task.remote(function, Path.cwd(), folder, *args) for key, args in tasks.items()}
    try:
        lost = ray.exceptions.RayError
        return {key: wait_for(functools.partial(ray.get, one), lost) for key, one in begun.items()}
    finally:
        for one in begun.values():  # after Ctrl-C
            ray.cancel(one, force=True)
        ray.shutdown()


def work_there(function: Callable, home: Path, folder: Path, *arguments: object) -> object:
    """Do a task in a process of a cluster, in the folder that the command was started in."""
    if not (home / folder / "config.yaml").is_file():
        return FailedWork(
            f"{socket.gethostname()} does not see {home / folder}; expected a folder that all "
            "machines of the cluster share"
        )
    os.chdir(home)
    return function(*arguments)


def connect(address: str) -> ModuleType:
    """Connect to a Ray cluster and return the module `ray`. The cluster gets a copy of the code.

    Args:
        address: "auto" (the cluster that this machine belongs to), HOST:PORT or ray://HOST:PORT.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    flag = f"--cluster {address}"
    try:
        import ray
    except ImportError:
        install = "pip install -r requirements-ray.txt"
        raise InputError(f"{flag}: Ray is not installed; expected: {install}") from None
    environment = {"working_dir": str(ROOT), "excludes": NOT_SENT}
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if not ray.is_initialized():
            if colon and port.isdigit():  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            ray.init(address, runtime_env=environment, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{flag}: expected a Ray cluster there ({error})") from None
    return ray
