"""Train several models on a Ray cluster, which may be many machines."""

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from command_line import FailedWork, InputError
from training.parallel import Key, Scores

ROOT = Path(__file__).parent.parent
NOT_SENT = [".git", "lightning_logs", "figures", "docs", "tests"]  # to the other machines
N_RETRIES = 3  # of a training whose process was killed


def train_on_cluster(
    train_level: Callable[..., Scores],
    trainings: dict[Key, tuple],
    folders: dict[Key, Path] | None,
    address: str,
    run_dir: Path,
    uses_gpus: bool,
    show: Callable,
) -> dict[Key, Scores | FailedWork]:
    """Train several models on a Ray cluster, as `training.parallel.train_all` does with processes
    of this machine.

    Each takes one CPU core. If a process is killed, its training is begun again, from its last
    checkpoint where the machines share a file system. Where they do not, a training's folder is
    brought back at its end.

    Args:
        train_level: Function that trains one bandwidth. Its last argument is called with reports of
            its progress.
        trainings: For each training: the other arguments of `train_level`.
        folders: For each the folder that it writes to. None: a process that is killed is not
            replaced, and no folder brought back.
        address: Of the cluster: "auto" (the one that this machine belongs to), HOST:PORT or
            ray://HOST:PORT.
        run_dir: Folder of the run. It holds config.yaml.
        uses_gpus: Whether each takes a GPU, if the cluster has any.
        show: Function that shows a report.

    Returns:
        For each its scores, or the error if it failed. The others go on.

    Raises:
        InputError: Ray is not installed, there is no cluster at the address, or a wrong option.
    """
    ray = connect(address)
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    reports = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    n_gpus = min(1, int(ray.cluster_resources().get("GPU", 0))) if uses_gpus else 0
    n_retries = 0 if folders is None else N_RETRIES
    worker = ray.remote(num_cpus=1, num_gpus=n_gpus, max_retries=n_retries)(train_remotely)
    place = Path.cwd(), run_dir, signature_of(run_dir)
    folders = folders or dict.fromkeys(trainings)
    begun = {
        key: pack(folder) for key, folder in folders.items()
    }  # before any of them is written to
    left = {
        worker.remote(train_level, args, *place, folders[key], begun[key], reports): key
        for key, args in trainings.items()
    }
    results = {}
    try:
        while left:
            ended, _ = ray.wait(list(left), timeout=0.2)
            for report in reports.get_nowait_batch(reports.qsize()):
                show(report)
            for reference in ended:
                key = left.pop(reference)
                results[key] = collect(ray, reference, folders[key])
    finally:
        for reference in left:  # after Ctrl-C
            ray.cancel(reference, force=True)
        ray.shutdown()
    return {key: results[key] for key in trainings}


def connect(address: str) -> ModuleType:
    """Connect to a cluster, if that was not done before, and return the module `ray`. The cluster
    gets a copy of the repo.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            f"--cluster {address}: Ray is not installed; expected: pip install -r requirements-ray.txt"
        ) from None
    environment = {"working_dir": str(ROOT), "excludes": NOT_SENT}
    try:
        if not ray.is_initialized():
            check_reachable(address)
            ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"--cluster {address}: expected a Ray cluster there ({error})") from None
    return ray


def check_reachable(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT or ray://HOST:PORT. Ray itself would try for
    many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def signature_of(run_dir: Path) -> tuple[bytes, int] | None:
    """Return a fingerprint of the folder of a run: content and time of its config.yaml."""
    path = run_dir / "config.yaml"
    return (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None


def train_remotely(
    train_level: Callable[..., Scores],
    args: tuple,
    home: Path,
    run_dir: Path,
    signature: tuple[bytes, int],
    folder: Path | None,
    begun: bytes,
    reports: object,
) -> tuple[Scores | FailedWork | InputError, bytes]:
    """Train one bandwidth in a process of the cluster.

    Args:
        train_level: Function that does it.
        args: Its arguments, without the last.
        home: Folder that the run was started in.
        run_dir: Folder of the run, from there.
        signature: Fingerprint of that folder.
        folder: Folder that the training writes to, from there.
        begun: What was in it, if the training goes on with one that was stopped.
        reports: Queue for reports of the progress.

    Returns:
        Its scores or its error, and its folder if the file system is not shared.
    """
    is_shared = signature_of(home / run_dir) == signature
    if is_shared:
        os.chdir(home)  # elsewhere, the process is in a copy of the repo
    else:
        unpack(begun, folder)
    try:
        result = train_level(*args, reports.put)
    except (FailedWork, InputError) as error:
        result = error
    except OSError as error:
        result = FailedWork(str(error))
    return result, b"" if is_shared else pack(folder)


def collect(ray: ModuleType, reference: object, folder: Path | None) -> Scores | FailedWork:
    """Return the scores of a training that came to its end, or its error. Write its folder if it
    was brought back."""
    try:
        result, packed = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a bug keeps its traceback
    except ray.exceptions.RayError as error:
        return FailedWork(f"the cluster gave it up: {str(error).strip().splitlines()[0]}")
    unpack(packed, folder)
    if isinstance(result, InputError):
        raise result
    return result


def pack(folder: Path | None) -> bytes:
    """Return the files in a folder as one archive; nothing if there is no such folder."""
    if folder is None or not folder.exists():
        return b""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, ".")
    return content.getvalue()


def unpack(packed: bytes, folder: Path | None) -> None:
    """Write the files of an archive to a folder."""
    if packed:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            # as an attribute, which Python before 3.11.4 ignores
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)
