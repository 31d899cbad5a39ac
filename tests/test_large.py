"""A recording larger than memory."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT

CHUNK = 1000  # trials


def write_large(path: Path, n_chunks: int) -> None:
    """Write the same thousand trials many times over, packed once."""
    spikes = np.random.default_rng(0).poisson(0.02, (CHUNK, 50, 30)).astype(np.uint8)
    packed = zlib.compress(spikes.tobytes(), 9)
    with h5py.File(path, "w") as file:
        file.attrs["bin_width"] = 0.02
        file["valid_data"] = spikes[:200]
        options = {"dtype": "u1", "chunks": spikes.shape, "compression": "gzip"}
        array = file.create_dataset("train_data", (n_chunks * CHUNK, 50, 30), **options)
        for chunk in range(n_chunks):
            array.id.write_direct_chunk((chunk * CHUNK, 0, 0), packed)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the memory of a process is not known here")
def test_training_on_a_file_larger_than_memory_takes_little(tmp_path):
    """20 GB of counts, as they would be in memory; a few batches from all over the file."""
    write_large(tmp_path / "large.h5", n_chunks=3360)
    words = "--data.path large.h5 --bandwidths 5 --model.hidden_size 8 --data.batch_size 4"
    words += " --trainer.max_epochs 1 --trainer.limit_train_batches 3 --refinement.epochs 0"
    words += " --trainer.accelerator cpu"  # CUDA alone takes more
    command = [sys.executable, str(ROOT / "train.py"), *words.split()]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, process.stderr.read()
    process.stderr.close()
    assert usage.ru_maxrss / 2**20 < 1.5, "GB"
