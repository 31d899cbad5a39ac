"""What comes after training: folders of runs, checkpoints, inference, scores, baselines."""
