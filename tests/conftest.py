"""Fixtures shared by all rooms: the small embedded data set, and where real files are found."""

from __future__ import annotations

import gc
import os
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before torch: the tests themselves share the cores, and threads that wait for one another spin
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from tests.places import REPOSITORY

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from omegaconf import DictConfig

    from atomsweep.data.generated.mini_oc import MiniOC
    from atomsweep.data.source import DataSource
    from atomsweep.tracking.run import RunDirectory
    from tests.contracts.commands import Place


def pytest_configure() -> None:
    """Let what tests start be interrupted: a shell makes what it runs with `&` ignore SIGINT."""
    gc.disable()  # until everything is imported
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: no search for garbage need walk through them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of a test lands in the user's cache, or comes from there."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def data_source(option: str, root: Path, **overrides: object) -> DataSource:
    """The source that `data=<option>` names, with its files under `root`."""
    return instantiate(_data_config(option), root=str(root), **overrides)


@cache  # composing takes longer than most tests of a source
def _data_config(option: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(REPOSITORY / "conf"), version_base="1.3"):
        return compose(f"data/{option}").data


@pytest.fixture(scope="session")
def mini_oc_tiny(tmp_path_factory: pytest.TempPathFactory) -> MiniOC:
    """The embedded data set at its smallest, built once for all workers of a test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    source = data_source("mini_oc_tiny", shared / "datasets", workers=2)
    source.prepare(progress=False)
    return source  # type: ignore[return-value]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real files, from ATOMSWEEP_TEST_DATA or beside the repository; skips without."""
    folder = Path(os.environ.get("ATOMSWEEP_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder}; set ATOMSWEEP_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def context() -> ForkServerContext:
    """Where cells are forked from. A process has one such server: here the one of real sweeps."""
    from atomsweep.launch.execute import warm_up

    return warm_up(None).context


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, mini_oc_tiny: MiniOC) -> RunDirectory:
    """A finished run of a tiny ForceNet on the smallest data set. Shared: leave it as it is."""
    from tests.contracts.trained_run import trained_run

    return trained_run(tmp_path_factory.mktemp("runs"), mini_oc_tiny.directory.parent)


@pytest.fixture
def place(tmp_path: Path, mini_oc_tiny: MiniOC) -> Place:
    """A folder in which commands are typed, with the small data set at hand."""
    from tests.contracts.commands import Place, environment

    return Place(tmp_path, environment(ATOMSWEEP_DATA=str(mini_oc_tiny.directory.parent)))
