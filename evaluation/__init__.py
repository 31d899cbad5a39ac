"""What comes after a training: finding, loading and scoring checkpoints, inference, and what models are compared with."""
