"""What surrounds `trainer.fit`: options, run folders, processes, callbacks, the terminal and
TensorBoard."""
