"""What surrounds `trainer.fit`: options, many runs at once, progress, callbacks, TensorBoard."""
