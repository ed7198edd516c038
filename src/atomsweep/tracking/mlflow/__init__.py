"""Run directories as MLflow shows them: one writer mirrors them, a reader reads them back.

Nothing waits for a server, and nothing that only MLflow knows is needed again.
"""
