"""The guide to recordings: its commands and its code run, in its order."""

import re
import shlex

import h5py
import numpy as np
import pytest
from conftest import ROOT, check_command

pytest.importorskip("pynwb")
from nwb_files import some_spike_times, trials_of, write_nwb

GUIDE = (ROOT / "docs" / "recordings.md").read_text(encoding="utf-8")


def test_the_guide_goes_from_a_session_to_rates(monkeypatch, call, tmp_path):
    quality = ["good", "good", "mua", "good", "good", "mua"]
    write_nwb(
        tmp_path / "session.nwb", some_spike_times(), {"trials": trials_of(60)}, quality=quality
    )
    counts = np.random.default_rng(0).poisson(0.3, (40, 20, 12))
    with h5py.File(tmp_path / "tensors.h5", "w") as file:
        file["train_spikes_heldin"], file["train_spikes_heldout"] = (
            counts[:, :, :9],
            counts[:, :, 9:],
        )
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", GUIDE, re.DOTALL):
        if language == "python":
            with monkeypatch.context() as patch:
                patch.chdir(tmp_path)
                exec(block, {})
        else:
            for line in block.splitlines():
                if not line.startswith("pip install"):
                    check_command(call, tmp_path, shlex.split(line)[1:])
    assert (ROOT / "requirements-nwb.txt").exists()
