"""Reference numbers of the demonstration: those of the public demo, and of this repo over seeds.

`published_r2.csv` is what the public SBTT demo (snel-repo/sbtt-demo, MIT; Zhu, Sedler et al.,
NeurIPS 2021, arXiv:2111.00070) reached, read off the training histories that it publishes. For each
of its eight models: validation R² to the true rates and validation Poisson NLL on observed entries
at the epoch with the lowest NLL, that epoch, and the seconds of its 1000 epochs on its authors' GPU
machine. `docs/seeds.csv` is this repo's (docs/recipe.md has the commands).
"""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from command_line import read_table
from data import SpikeDataModule
from recordings.hdf5 import SPLITS

HERE = Path(__file__).parent
PUBLISHED_CSV, SEEDS_CSV = HERE / "published_r2.csv", HERE.parent / "docs" / "seeds.csv"
SHAPES = [(1248, 50, 29), (312, 50, 29)]  # of the training and validation trials of lorenz_data.h5
COUNTS_SHA256 = "1f9f74134842525ea58b224be4c11d2fe4e967a0da1d63a574a5381c86154282"


def is_demonstration(data: SpikeDataModule) -> bool:
    """Return whether data are the demonstration's, so that the reference numbers apply.

    They are if they have the counts of lorenz_data.h5, split as there, and random neurons are
    observed.
    """
    masks = data.hparams.pattern, data.hparams.fill, data.hparams.split
    counts = [data.trials[split].spikes for split in SPLITS]
    if masks != ("random", "none", "trials") or [part.shape for part in counts] != SHAPES:
        return False
    stored = b"".join(part[:].astype(np.uint8).tobytes() for part in counts)
    return hashlib.sha256(stored).hexdigest() == COUNTS_SHA256


def read_published() -> dict[int, dict[str, float]]:
    """Return what the public demo published, for each bandwidth, the largest first."""
    rows = [{key: float(value) for key, value in row.items()} for row in read_table(PUBLISHED_CSV)]
    return {int(row["bandwidth"]): row for row in rows}


def read_seeds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return fraction dropped, mean R² and its SD of this repo over seeds, each (bandwidths,)."""
    r2 = defaultdict(list)
    for row in read_table(SEEDS_CSV):
        r2[float(row["fraction_dropped"])].append(float(row["r2"]))
    values = np.array([r2[dropped] for dropped in sorted(r2)])
    return np.array(sorted(r2)), values.mean(1), values.std(1, ddof=1)
