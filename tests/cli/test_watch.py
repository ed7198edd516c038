"""Live pages: a real server, asked as a browser asks it, while runs go on."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from atomsweep.cli import live, watch
from atomsweep.cli.live import Site
from atomsweep.cli.main import main
from atomsweep.launch.plan import Cell, Plan
from atomsweep.report.pages import live as pages
from atomsweep.report.read.journals import GrowingJournal
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, write_atomic
from tests.contracts.commands import environment
from tests.launch.test_survey import cell, finish

METRIC = "val_id/forces_mae"
SWEEP = "/sweep/paper/table"
CHROMIUM = shutil.which("chromium")


def measured(seed):
    """A cell with a metric that decides."""
    one = cell(seed=seed)
    config = {**one.config, "engine": {**one.config["engine"], "metric": METRIC}}
    return Cell(config, one.choices, one.overrides, one.data)


def make(root, seeds, name="paper/table"):
    """A planned sweep whose last cell has no directory; returns its runs."""
    cells = [measured(seed) for seed in seeds]
    plan = Plan.of(cells, Grid({"seed": []}, [], name=name), ["run.py", "-m", "a=<b>"], root)
    runs = [one.create(root, plan.sweep, plan.command) for one in cells[:-1]]
    plan.save(root, [one.find(root) for one in plan.cells], {one.identity: 1000 for one in cells})
    return runs


def log(run, *points):
    for step, value in points:
        run.log(step, {METRIC: value, "train/loss": 2 * value}, float(step), 0.0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A sweep of which one cell is finished, one trains, one failed and one is missing."""
    monkeypatch.setattr(live, "EVERY", 0.0)  # each question looks
    monkeypatch.setattr(live, "REST", 0.0)
    root = tmp_path / "runs"
    done, runs, failed = make(root, range(4))
    log(done, (10, 0.9), (50, 0.5), (100, 0.4))
    finish(done)
    log(runs, (10, 0.8))
    runs.update_status(state=schema.RUNNING, step=25, total_steps=100, fraction=0.25)
    failed.fail("ValueError: <script>alert(1)</script>")
    return root


@contextmanager
def served(root):
    """A function that asks the server of `root` for an address."""
    server = watch.opened(Site(root), 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()

    def ask(address, method="GET", **headers):
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request(method, address, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, answer.headers

    ask.port = server.server_port
    try:
        yield ask
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def states_of(text):
    """Identity or setting → state, of the rows of a page."""
    return re.findall(r'class="state (\w+)">', text)


def test_the_index_tells_every_sweep_with_its_cost_and_what_was_never_launched(root):
    single = cell(seed=99).create(root, None, "run.py seed=99")
    with served(root) as ask:
        code, text, headers = ask("/")
    assert code == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert f'href="{SWEEP}">paper/table</a>' in text
    assert "1 finished, 1 interrupted, 1 failed, 1 missing" in text
    assert '<td class="num">1 / 4</td>' in text
    assert "about 88 s and 1 cells unknown" in text  # 0.75 and 1 of 50 s
    assert f'href="/run/{single.name}"' in text
    assert "atomsweep run sweeps=forcenet/table5" in text


def test_the_page_of_a_sweep_tells_cells_progress_curves_and_cost(root):
    with served(root) as ask:
        text = ask(SWEEP)[1]
    assert states_of(text) == ["finished", "interrupted", "failed", "missing"]
    assert "25 / 100" in text
    assert "--share: 25.0%" in text
    assert "device time to come" in text
    assert text.count("<polyline") == 1  # of the one with two points
    assert "val_id/forces_mae: 0.9000 at step 10, 0.4000 at step 100" in text
    assert "ValueError: &lt;script&gt;" in text
    assert "<script>alert" not in text
    assert "run.py -m &#39;a=&lt;b&gt;&#39;" in text  # nobody launches it: what goes on with it


def test_curves_and_states_grow_while_a_run_trains(root):
    (name,) = (p.name for p in root.iterdir() if "seed_1-" in p.name)
    run = live.RunDirectory(root / name)
    with served(root) as ask, run.lock():
        before = ask(SWEEP)[1]
        assert "running" in states_of(before)
        log(run, (20, 0.7), (30, 0.6))
        run.update_status(step=30, fraction=0.3, values={METRIC: 0.6})
        after = ask(SWEEP)[1]
    assert "30 / 100" in after
    assert "0.6000" in after
    assert after.count("<polyline") == before.count("<polyline") + 1
    assert "0.8000 at step 10, 0.6000 at step 30" in after


def test_what_has_not_changed_is_not_sent_again(root):
    with served(root) as ask:
        _, text, headers = ask(SWEEP)
        tag = headers["ETag"]
        assert ask(SWEEP, **{"If-None-Match": tag})[:2] == (304, "")
        finish(live.RunDirectory(next(p for p in root.iterdir() if "seed_1-" in p.name)))
        code, changed, _ = ask(SWEEP, **{"If-None-Match": tag})
    assert code == 200
    assert changed != text


def test_drawings_are_made_anew_only_for_new_points_and_after_a_rest(root, monkeypatch):
    made = []
    monkeypatch.setattr(pages, "drawings", lambda cells: made.append(1) or ["<svg></svg>"])
    site = Site(root)
    for _ in range(3):
        site.page(SWEEP)
    assert len(made) == 1
    run = live.RunDirectory(next(p for p in root.iterdir() if "seed_1-" in p.name))
    log(run, (40, 0.5))
    monkeypatch.setattr(live, "REST", 1e9)
    site.page(SWEEP)
    assert len(made) == 2
    log(run, (50, 0.4))
    site.page(SWEEP)  # it rests
    assert len(made) == 2


def test_run_and_report_are_pages_too(root):
    name = next(p.name for p in root.iterdir() if "seed_0-" in p.name)
    with served(root) as ask:
        code, text, _ = ask(f"/run/{name}")
        assert code == 200
        assert f"<code>{name}</code> finished" in text
        code, text, _ = ask("/report/paper/table")
    assert code == 200
    assert "paper/table" in text


def test_nothing_is_written_where_runs_are(root):
    def state():
        found = {}
        for path in sorted(root.rglob("*")):
            stat = path.stat()
            found[path] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    before = state()
    with served(root) as ask:
        for address in (
            "/",
            SWEEP,
            f"/run/{next(root.glob('*seed_0-*')).name}",
            "/report/paper/table",
        ):
            assert ask(address)[0] == 200
    assert state() == before


@pytest.mark.parametrize(
    "address",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/sweep/../../etc/passwd",
        "/sweep/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/run/..",
        "/run/.",
        "/run/_sweeps",
        "/run/%00",
        "/report/paper/table/../../../x",
        "/sweep/",
        "/sweep/paper/table.json",
        "/nothing?x=1#y",
    ],
)
def test_only_names_that_are_known_lead_anywhere(root, address):
    secret = "root:"
    with served(root) as ask:
        code, text, _ = ask(address)
    assert code == 404
    assert "there is no" in text
    assert secret not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_can_only_be_read(root, method):
    with served(root) as ask:
        assert ask("/", method)[0] == 501
        code, text, headers = ask("/", "HEAD")
    assert (code, text) == (200, "")
    assert int(headers["Content-Length"]) > 1000
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("host", "code"),
    [("127.0.0.1:8765", 200), ("localhost:99", 200), ("[::1]:1", 200), ("evil.example", 403),
     ("localhost.evil.example", 403), ("[", 403), ("", 403)],
)  # fmt: skip
def test_a_page_of_elsewhere_cannot_read_it_under_another_name(root, host, code):
    with served(root) as ask:
        assert ask("/", Host=host)[0] == code


def test_only_the_loopback_interface_listens(root):
    server = watch.opened(Site(root), 0)
    try:
        assert server.socket.getsockname()[0] == "127.0.0.1"
    finally:
        server.server_close()


def test_half_written_files_stop_no_page(root):
    paths = sorted(p for p in root.iterdir() if "seed" in p.name)
    (paths[0] / schema.STATUS).write_text('{"state": "run')
    with (paths[1] / schema.JOURNAL).open("a") as journal:
        journal.write('{"step": 20, "train/lo')
    (paths[2] / schema.RUN).write_text("")
    (root / "half").mkdir()
    (root / "half" / schema.CONFIG).write_text("a: 1")
    with served(root) as ask:
        answers = [ask(address)[:2] for address in ("/", SWEEP, f"/run/{paths[1].name}")]
        (root / schema.PLANS / "paper" / "table.json").write_text('{"cells": [')
        answers.append(ask("/")[:2])
        assert ask(SWEEP)[0] == 404
    assert [code for code, _ in answers] == [200] * 4
    assert "is damaged" in answers[1][1]
    assert "table.json is damaged" in answers[3][1]


def test_an_error_of_a_page_is_a_sentence_on_it(root):
    (only,) = make(root, range(10, 12), name="empty")
    only.fail("ValueError: bad")
    with served(root) as ask:
        code, text, _ = ask("/report/empty")
        assert ask("/")[0] == 200
    assert code == 500
    assert "nothing of empty has finished" in text


def test_of_many_cells_those_that_run_and_fail_are_told_and_the_rest_is_counted(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(live, "MOST", 5)
    root = tmp_path / "runs"
    runs = make(root, range(live.MOST + 21))
    runs[-1].fail("ValueError: bad")
    with runs[-2].lock(), served(root) as ask:
        text = ask(SWEEP)[1]
    shown = states_of(text)
    assert len(shown) == live.MOST
    assert shown[:2] == ["running", "failed"]
    assert "And 20 queued, 1 missing, not told one by one." in text


def test_an_empty_root_has_an_index(tmp_path):
    with served(tmp_path) as ask:
        code, text, _ = ask("/")
    assert code == 200
    assert "None yet" in text


def test_a_growing_journal_reads_what_was_added_and_forgets_what_was_cut(tmp_path):
    run = cell().create(tmp_path, None, "")
    journal = GrowingJournal(run.path, {METRIC, "train/loss"})
    assert journal.points(METRIC) == []
    log(run, (1, 0.5), (2, 0.4))
    assert journal.points(METRIC) == [(1.0, 0.5), (2.0, 0.4)]
    with (run.path / schema.JOURNAL).open("a") as file:
        file.write(json.dumps({"step": 3, METRIC: 0.3})[:-4])
    assert journal.points(METRIC) == [(1.0, 0.5), (2.0, 0.4)]
    run.rewind(1)
    log(run, (2, 0.2))
    assert journal.points(METRIC) == [(1.0, 0.5), (2.0, 0.2)]
    log(run, (2, float("nan")), (3, 0.1))
    assert journal.points(METRIC) == [(1.0, 0.5), (3.0, 0.1)]
    assert journal.points("train/structures_per_s") == []  # not asked for
    assert journal.points("train/loss") == [(1.0, 1.0), (3.0, 0.2)]
    write_atomic(run.path / schema.JOURNAL, dumps({"step": 7, METRIC: 1.0}) + "\n")
    assert journal.points(METRIC) == [(7.0, 1.0)]


def test_a_named_port_in_use_is_a_sentence_and_another_is_taken_where_none_is_named(
    root, capsys, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["watch", "--root", str(root), "--port", str(port)]) == 1
        told = capsys.readouterr().err
        assert f"port {port} cannot be had" in told
        assert told.count("\n") == 1
        monkeypatch.setattr(watch, "PORT", port)
        server = watch.opened(Site(root), None)
        assert port < server.server_port < port + watch.TRIED
        server.server_close()
        monkeypatch.setattr(watch, "TRIED", 1)
        assert main(["watch", "--root", str(root)]) == 1
    assert "are all in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "70000"], "between 0 and 65535, got 70000"),
        (["papre/table"], "there is no sweep papre/table in .*; known: paper/table"),
        (["../x"], "there is no sweep ../x"),
    ],
)
def test_what_cannot_be_watched_is_a_sentence(root, capsys, words, told):
    assert main(["watch", "--root", str(root), *words]) == 1
    found = capsys.readouterr().err
    assert found.count("\n") == 1
    assert re.search(told, found)


COMMAND = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
from atomsweep.cli.main import main
sys.argv = ["atomsweep", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_closes_it_with_a_sentence(root, number):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "watch", "paper/table", "--root", str(root), "--port", "0"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/sweep/paper/table", address)
    assert found, address
    assert "Ctrl-C closes it" in process.stdout.readline()
    connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    connection.request("GET", "/nothing")  # a page of it needs seconds of imports
    assert connection.getresponse().status == 404
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (0, "closed\n")


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_in_a_browser_follows_by_itself_and_stays_where_it_was(root, tmp_path, monkeypatch):
    """The second question finds another state; the page is the same, scrolled as it was."""
    page = Site.page
    asked = []

    def counted(site, address):
        if asked:
            finish(live.RunDirectory(next(p for p in root.iterdir() if "seed_1-" in p.name)))
        asked.append(address)
        text = page(site, address)
        mark = "<script>window.kept = true; scrollTo(0, 333);</script></body>"
        return text.replace("</body>", mark) if len(asked) == 1 else text

    monkeypatch.setattr(Site, "page", counted)
    monkeypatch.setattr(live, "IDLE", 1.0)
    with served(root) as ask:
        told = (
            "<script>setInterval(() => { const seen = document.querySelectorAll('#cells .state'); "
            "document.body.dataset.seen = [...seen].map(s => s.textContent).join(' ') + ' ' + "
            "window.kept + ' ' + scrollY; }, 200)</script></body>"
        )
        real = Site.page
        monkeypatch.setattr(Site, "page", lambda s, a: real(s, a).replace("</body>", told))
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=800,500",
            f"--user-data-dir={tmp_path / 'profile'}", "--timeout=60000",
            "--virtual-time-budget=9000", "--dump-dom", f"http://127.0.0.1:{ask.port}{SWEEP}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert len(asked) > 1, done.stderr[-1000:]
    assert 'data-seen="finished finished failed missing true 333"' in done.stdout
    assert re.search(r"As of \d\d:\d\d:\d\d; refreshed by itself", done.stdout)
