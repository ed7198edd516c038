"""What is learnt: the loss and metrics of forces, energies and relaxed energies; units and targets.

A task sees batches and predictions. It reads no file and starts no process.
"""
