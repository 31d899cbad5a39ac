"""Data files for the tests: small, and made in a temporary folder."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


@pytest.fixture
def data_arrays() -> dict[str, np.ndarray]:
    """The arrays of a valid file: 24 + 12 trials of 8 bins and 6 neurons, in 3 conditions, rates in spikes/s."""
    rng = np.random.default_rng(0)
    condition_rates = rng.uniform(5.0, 100.0, (3, 8, 6)).astype(np.float32)
    arrays = {}
    for split, n_trials in (("train", 24), ("valid", 12)):
        condition = np.arange(n_trials) % 3
        rates = condition_rates[condition]
        arrays |= {f"{split}_data": rng.poisson(rates * 0.02).astype(np.float32), f"{split}_truth": rates}
        arrays |= {f"{split}_condition": condition}
    return arrays


@pytest.fixture
def write_file(tmp_path):
    """A function that writes arrays and root attributes to an HDF5 file and returns its path."""

    def write(arrays: dict[str, np.ndarray], name: str = "data.h5", **attributes) -> str:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
            file.attrs.update(attributes or {"bin_width": 0.02})
        return str(path)

    return write


@pytest.fixture
def data_file(data_arrays, write_file) -> str:
    return write_file(data_arrays)
