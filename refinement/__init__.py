"""The second half of the method: a trained model is refined, and held-out counts choose how."""
