"""The guide to recordings: its commands and its code run, in its order."""

import re
import shlex

import h5py
import numpy as np
from conftest import ROOT, check_command
from nwb_files import QUALITY, trials_of, write_nwb

GUIDE = (ROOT / "docs" / "recordings.md").read_text(encoding="utf-8")


def test_the_guide_goes_from_a_session_to_rates(monkeypatch, call, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_nwb("session.nwb", trials=trials_of(60), quality=QUALITY)
    counts = np.random.default_rng(0).poisson(0.3, (40, 20, 12))
    with h5py.File("tensors.h5", "w") as file:
        file["train_spikes_heldin"], file["train_spikes_heldout"] = np.split(counts, [9], axis=2)
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", GUIDE, re.DOTALL):
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            if not line.startswith("pip install"):
                check_command(call, tmp_path, shlex.split(line)[1:])
