"""Planning, status and reports start without the heavy packages."""

import subprocess
import sys

import pytest

from tests.places import REPOSITORY

HEAVY = ("torch", "torch_geometric", "mlflow", "optuna")


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import atomsweep.launch.study.request, atomsweep.launch.plan, atomsweep.launch.local.pool",
        "import hydra_plugins.atomsweep.sweeper",
        "import atomsweep.tracking.run, atomsweep.tracking.mlflow.mirror, atomsweep.__main__",
        "import atomsweep.cli.report, atomsweep.report.pages.overview",
        "import sys; sys.argv = ['run.py', '--help']; import runpy\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit: pass",
    ],
    ids=["sweep", "plugins", "tracking", "analysis", "help"],
)
def test_no_heavy_package_is_imported(code):
    check = f"{code}\nimport sys\nloaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
    check += "assert not loaded, loaded"
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}",
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
        },
    )
    assert done.returncode == 0, done.stderr
