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
from evaluation.checkpoints import load_checkpoint, load_model_and_data
from recordings.hdf5 import read_file
from recordings.nwb import is_nwb
from recordings.tensors import convert_tensors, describe_tensors

COUNTS, KEY = np.ones((4, 3, 2), dtype=np.uint8), "train_data"


@pytest.fixture(autouse=True)
def little_memory():
    """Let a test have half a gigabyte more than it has: an attempt to unpack a bomb fails."""
    limits, memory = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if memory.exists():
        size = int(memory.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def external_link(file):
    with h5py.File("secret.h5", "w") as other:
        other[KEY] = COUNTS
    file[KEY] = h5py.ExternalLink("secret.h5", KEY)


def soft_link(file):
    file["other"] = COUNTS
    file[KEY] = h5py.SoftLink("/other")


def external_storage(file):
    Path("secret.raw").write_bytes(COUNTS.tobytes())
    file.create_dataset(KEY, COUNTS.shape, "u1", external=[("secret.raw", 0, COUNTS.size)])


def virtual_array(file):
    with h5py.File("secret.h5", "w") as other:
        other["counts"] = COUNTS
    layout = h5py.VirtualLayout(COUNTS.shape, "u1")
    layout[:] = h5py.VirtualSource("secret.h5", "counts", COUNTS.shape)
    file.create_virtual_dataset(KEY, layout)


def bomb(file):
    options = {"chunks": (10, 1000, 1000), "compression": "gzip"}
    array = file.create_dataset(KEY, (2000, 1000, 1000), "u1", **options)
    array.id.write_direct_chunk((0, 0, 0), b"x" * 1000)  # the other chunks are not even there


def put(value):
    """Return a function that puts something in place of the counts."""
    return lambda file: file.__setitem__(KEY, value)


def make(shape, dtype="u1", chunks=None):
    """Return a function that makes an array without content."""
    return lambda file: file.create_dataset(KEY, shape, dtype, chunks=chunks)


HOSTILE_FILES = {
    "external link": (external_link, "is a link to another place"),
    "broken external link": (put(h5py.ExternalLink("/etc/passwd", "x")), "is a link to another"),
    "soft link": (soft_link, "is a link to another place"),
    "external storage": (external_storage, "lies in another file"),
    "virtual array": (virtual_array, "lies in another file"),
    "bomb": (bomb, "unpacks to 1.9 GB"),
    "too many trials": (make((10**12, 3, 2), chunks=(10, 3, 2)), "has shape .1000000000000, 3, 2."),
    "a trial without end": (make((4, 10**9, 2), chunks=(1, 10**5, 2)), "has shape .4, 1000000000"),
    "one great chunk": (make((10**7, 30, 2), chunks=(10**7, 30, 2)), "has shape"),
    "a group": (lambda file: file.create_group(KEY), "is not an array of numbers"),
    "strings": (put(np.full((4, 3, 2), b"spike")), "is not an array of numbers"),
    "objects": (make((4, 3, 2), h5py.string_dtype()), "is not an array of numbers"),
    "records": (make((4, 3, 2), [("count", "u1")]), "is not an array of numbers"),
    "complex numbers": (put(COUNTS * 1j), "is not an array of numbers"),
    "one number": (put(3), r"has shape \(\)"),
    "an empty dataset": (put(h5py.Empty("f4")), "is not an array of numbers"),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_hostile_recording_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    spoil, message = HOSTILE_FILES[name]
    with h5py.File("hostile.h5", "w") as file:
        file.attrs["bin_width"] = 0.02
        file["valid_data"] = COUNTS
        spoil(file)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=f"^hostile.h5: {KEY} {message}.*$"):  # in one line
        read_file("hostile.h5")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def write_lfads_torch(**more) -> None:
    """Write tensors.h5, a file of lfads-torch with `more` in it."""
    with h5py.File("tensors.h5", "w") as file:
        for split in ("train", "valid"):
            for kind in ("encod", "recon"):
                file[f"{split}_{kind}_data"] = COUNTS
            file[f"{split}_truth"] = COUNTS
        for key, value in more.items():
            file[key] = value


HOSTILE_FACTORS = {
    "external link": (h5py.ExternalLink("secret.h5", "x"), "is a link to another place"),
    "dangling link": (h5py.SoftLink("/nowhere"), "is a link to another place"),
    "text": ("a factor", "is not an array of numbers"),
    "an array": (np.ones(3), r"has shape \(3,\); expected a number"),
    "zero": (0.0, "is 0.0; expected above 0"),
    "NaN": (np.nan, "is nan; expected above 0"),
}


@pytest.mark.parametrize("name", HOSTILE_FACTORS)
def test_a_hostile_conversion_factor_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    factor, message = HOSTILE_FACTORS[name]
    with h5py.File("secret.h5", "w") as other:
        other["x"] = 2.0
    write_lfads_torch(conversion_factor=factor)
    with pytest.raises(InputError, match=f"^tensors.h5: conversion_factor {message}.*$"):
        convert_tensors(["tensors.h5"], "a.h5", 0.02, 0.2, 0)
    assert not Path("a.h5").exists()


def test_links_are_not_followed_to_list_what_is_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    links = {"far": h5py.ExternalLink("secret.h5", "x"), "broken": h5py.SoftLink("/nowhere")}
    write_lfads_torch(**links, nwb_version=links["far"])
    with h5py.File("secret.h5", "w") as other:
        other["x"] = "2.0"
    assert not is_nwb("tensors.h5")
    assert "far" not in describe_tensors(["tensors.h5"])


def test_names_of_conditions_without_end_are_left_out(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["train_data"], file["valid_data"] = COUNTS, COUNTS
        file.attrs.update(bin_width=0.02, condition_names="[" * 20_000)
    assert read_file(path).condition_names is None


class Payload:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


HUGE = torch.zeros(1, 1).expand(3 * 10**5, 10**5)  # and takes four bytes


def of_others(reference: torch.Tensor) -> dict:
    """Return a prior with these reference trials."""
    return {"name": "shared", "numbers": {"reference": reference}}


HOSTILE_CHECKPOINTS = {
    "payload": ("state_dict", {"readout.bias": Payload()}, "is no checkpoint, or a damaged one"),
    "huge hidden size": ("hyper_parameters", {"hidden_size": 10**6}, "declares"),
    "huge weights": ("state_dict", {"decoder.weight_hh_l0": HUGE}, "declares"),
    "huge reference": ("prior", {"numbers": {"reference": HUGE}}, "declares"),
    "huge old reference": ("reference", HUGE, "declares"),
    "no weights": ("state_dict", None, "lacks the weights"),
    "numbers for weights": ("state_dict", {"readout.bias": 3}, "lacks the weights"),
    "a list for weights": ("state_dict", [1, 2], "lacks the weights"),
    "a reference of others": ("prior", of_others(torch.ones(4, 3)), "has a wrong table of ref"),
    "a reference of NaN": ("prior", of_others(torch.full((4, 8), torch.nan)), "has a wrong table"),
    "a list for a prior": ("prior", [1, 2], "lacks the weights"),
    "wrong hyperparameters": ("hyper_parameters", {"hidden_size": "many"}, "lacks the weights"),
    "a list for a table": ("hyper_parameters", [1, 2], "lacks the weights"),
}


@pytest.fixture(scope="module")
def checkpoint(sweep) -> Path:
    return sweep[0] / "bandwidth_02" / "best.ckpt"


@pytest.mark.parametrize("name", HOSTILE_CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(monkeypatch, tmp_path, checkpoint, name):
    monkeypatch.chdir(tmp_path)
    key, value, message = HOSTILE_CHECKPOINTS[name]
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    content[key] = content[key] | value if isinstance(value, dict) else value
    torch.save(content, "hostile.ckpt")
    with pytest.raises(InputError, match=f"^hostile.ckpt: {message}.*$"):  # in one line
        load_checkpoint("hostile.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.ckpt"]


def test_a_packed_checkpoint_is_refused(tmp_path, checkpoint):
    """PyTorch would unpack it, to a thousand times its size."""
    path = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(checkpoint) as ours, zipfile.ZipFile(path, "w") as packed:
        for part in ours.infolist():
            packed.writestr(part.filename, ours.read(part.filename), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"packed\.ckpt: is no checkpoint"):
        load_checkpoint(path)


def test_unknown_options_of_the_data_are_named(tmp_path, checkpoint):
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    content["datamodule_hyper_parameters"]["colour"] = "blue"
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="options of the data: .*'colour'; expected a checkpoint"):
        load_model_and_data(tmp_path / "other.ckpt")
