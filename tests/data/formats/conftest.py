"""What the tests of all formats share."""

import pytest


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """The plot of `describe` takes most of its time, and is looked at in tests/data/store."""
    monkeypatch.setattr("atomsweep.data.formats.describe.Description.plot", lambda *_: None)
