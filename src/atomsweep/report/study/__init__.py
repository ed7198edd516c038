"""What is said of a study of hyper-parameters: its trials, what mattered, and its drawings.

Optuna only weighs parameters here; nothing is suggested, and no storage of Optuna is opened.
"""
