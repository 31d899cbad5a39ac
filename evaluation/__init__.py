"""What comes after a training: finding, loading and scoring checkpoints, inference, baselines,
published numbers."""
