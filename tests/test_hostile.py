"""Files that mean harm, or are merely absurd, are refused in one line before memory is spent, and
nothing in them runs."""

import os
import resource
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from command_line import InputError
from evaluation.checkpoints import load_checkpoint
from recordings.hdf5 import read_file

COUNTS = np.ones((4, 3, 2), dtype=np.uint8)


@pytest.fixture(autouse=True)
def little_memory():
    """Let a test have half a gigabyte more than it has: an attempt to unpack a bomb fails."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = (
        int(Path("/proc/self/statm").read_text().split()[0])
        if Path("/proc/self/statm").exists()
        else 0
    )
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def external_link(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["train_data"] = COUNTS
    file["train_data"] = h5py.ExternalLink("secret.h5", "train_data")


def soft_link(file, folder):
    file["other"] = COUNTS
    file["train_data"] = h5py.SoftLink("/other")


def external_storage(file, folder):
    (folder / "secret.raw").write_bytes(COUNTS.tobytes())
    file.create_dataset(
        "train_data", COUNTS.shape, "u1", external=[(str(folder / "secret.raw"), 0, COUNTS.size)]
    )


def virtual_array(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["counts"] = COUNTS
    layout = h5py.VirtualLayout(COUNTS.shape, "u1")
    layout[:] = h5py.VirtualSource(folder / "secret.h5", "counts", COUNTS.shape)
    file.create_virtual_dataset("train_data", layout)


def bomb(file, folder):
    array = file.create_dataset(
        "train_data", (2000, 1000, 1000), "u1", chunks=(10, 1000, 1000), compression="gzip"
    )
    array.id.write_direct_chunk((0, 0, 0), b"x" * 1000)  # the other chunks are not even there


def strings(file, folder):
    file["train_data"] = np.full((4, 3, 2), b"spike")


def objects(file, folder):
    file.create_dataset("train_data", (4, 3, 2), h5py.string_dtype())


def records(file, folder):
    file["train_data"] = np.zeros((4, 3, 2), dtype=[("count", "u1")])


HOSTILE_FILES = {
    "external link": (external_link, "train_data is a link to another place"),
    "broken external link": (
        lambda file, _: file.__setitem__("train_data", h5py.ExternalLink("/etc/passwd", "x")),
        "train_data is a link to another place",
    ),
    "soft link": (soft_link, "train_data is a link to another place"),
    "external storage": (external_storage, "train_data lies in another file"),
    "virtual array": (virtual_array, "train_data lies in another file"),
    "bomb": (bomb, "train_data unpacks to 1.9 GB"),
    "more trials than there are": (
        lambda file, _: file.create_dataset("train_data", (10**12, 3, 2), "u1", chunks=(10, 3, 2)),
        "train_data has shape .1000000000000, 3, 2.",
    ),
    "a trial without end": (
        lambda file, _: file.create_dataset(
            "train_data", (4, 10**9, 2), "u1", chunks=(1, 10**5, 2)
        ),
        "train_data has shape .4, 1000000000, 2.",
    ),
    "one great chunk": (
        lambda file, _: file.create_dataset(
            "train_data", (10**7, 30, 2), "u1", chunks=(10**7, 30, 2)
        ),
        "train_data has shape",
    ),
    "a group": (
        lambda file, _: file.create_group("train_data"),
        "train_data is not an array of numbers",
    ),
    "strings": (strings, "train_data is not an array of numbers"),
    "objects": (objects, "train_data is not an array of numbers"),
    "records": (records, "train_data is not an array of numbers"),
    "complex numbers": (
        lambda file, _: file.__setitem__("train_data", COUNTS * 1j),
        "train_data is not an array of numbers",
    ),
    "one number": (lambda file, _: file.__setitem__("train_data", 3), r"train_data has shape \(\)"),
    "an empty dataset": (
        lambda file, _: file.__setitem__("train_data", h5py.Empty("f4")),
        "train_data is not an array",
    ),
}


def fingerprints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_hostile_recording_is_refused(tmp_path, name):
    make, message = HOSTILE_FILES[name]
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        file.attrs["bin_width"] = 0.02
        file["valid_data"] = COUNTS
        make(file, tmp_path)
    before = fingerprints(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        read_file(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert fingerprints(tmp_path) == before


class Payload:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


def payload(checkpoint):
    checkpoint["state_dict"]["readout.bias"] = Payload()


def huge_hidden_size(checkpoint):
    checkpoint["hyper_parameters"]["hidden_size"] = 10**6


def huge_weights(checkpoint):
    huge_hidden_size(checkpoint)
    checkpoint["hyper_parameters"]["hidden_size"] = 10**5
    checkpoint["state_dict"]["decoder.weight_hh_l0"] = torch.zeros(1, 1).expand(3 * 10**5, 10**5)


def huge_reference(checkpoint):
    checkpoint["reference"] = torch.zeros(1, 8).expand(10**9, 8)


def no_weights(checkpoint):
    del checkpoint["state_dict"]


def wrong_hyperparameters(checkpoint):
    checkpoint["hyper_parameters"]["hidden_size"] = "many"


def a_list(checkpoint):
    checkpoint["hyper_parameters"] = [1, 2]


HOSTILE_CHECKPOINTS = {
    "payload": (payload, "is no checkpoint, or a damaged one"),
    "huge hidden size": (huge_hidden_size, "declares"),
    "huge weights": (huge_weights, "declares"),
    "huge reference": (huge_reference, "declares"),
    "no weights": (no_weights, "lacks the weights"),
    "wrong hyperparameters": (wrong_hyperparameters, "lacks the weights"),
    "a list for a table": (a_list, "lacks the weights"),
}


@pytest.fixture(scope="module")
def checkpoint(sweep) -> Path:
    return sweep[0] / "bandwidth_02" / "best.ckpt"


@pytest.mark.parametrize("name", HOSTILE_CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(monkeypatch, tmp_path, checkpoint, name):
    monkeypatch.chdir(tmp_path)
    make, message = HOSTILE_CHECKPOINTS[name]
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    make(content)
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(InputError, match=message) as error:
        load_checkpoint(tmp_path / "hostile.ckpt")
    assert "hostile.ckpt" in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.ckpt"]


def test_a_packed_checkpoint_is_refused(tmp_path, checkpoint):
    """PyTorch would unpack it, to a thousand times its size."""
    with (
        zipfile.ZipFile(checkpoint) as ours,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w") as packed,
    ):
        for part in ours.infolist():
            packed.writestr(part.filename, ours.read(part.filename), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="packed.ckpt: is no checkpoint"):
        load_checkpoint(tmp_path / "packed.ckpt")
