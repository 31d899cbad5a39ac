"""Commands that measure numbers of the README (benchmark, ablation) and draw the learning
curves."""
