"""`atomsweep watch [sweep]`: pages that follow runs while they train, for this machine alone."""

import argparse
import errno
import hashlib
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

from atomsweep.build import UserError
from atomsweep.cli.live import SWEEP, NoSuchPage, Site, problem_page
from atomsweep.cli.shared import add_root, need_root
from atomsweep.launch.control import sweeps
from atomsweep.launch.plan import is_planned
from atomsweep.processes import stopped_in_order
from atomsweep.tracking.files import told

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PORT = 8765
LATEST = "latest"
TRIED = 20  # ports above it, where nobody has named one
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    watch = commands.add_parser(
        "watch", help="pages in a browser that follow sweeps and runs while they train"
    )
    watch.add_argument(
        "sweep", nargs="?", help="open at this sweep, or latest, instead of the index"
    )
    watch.add_argument(
        "--port", type=int, help=f"of 127.0.0.1; else {PORT}, or the next that is free"
    )
    watch.set_defaults(command=_watch)
    add_root(watch)


def _watch(options: argparse.Namespace) -> int:
    need_root(options.root)
    start = "/"
    if options.sweep == LATEST and (known := sweeps(options.root)):
        options.sweep = known[-1]
    if options.sweep is not None:
        if not is_planned(options.root, options.sweep):
            names = ", ".join(sweeps(options.root)) or "none"
            raise UserError(f"there is no sweep {options.sweep} in {options.root}; known: {names}")
        start = SWEEP + quote(options.sweep)
    with opened(Site(options.root), options.port) as server:
        print(f"http://{LOOPBACK}:{server.server_port}{start}")
        print("read-only, for this machine alone; Ctrl-C closes it", flush=True)
        with stopped_in_order() as check:
            server.between = check
            with suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)
    print("closed", file=sys.stderr)
    return 0


class Server(ThreadingHTTPServer):
    """Serves the pages of a site on the loopback interface.

    Args:
        site: whose pages.
        port: 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.between: Callable[[], None] = lambda: None  # called every moment
        super().__init__((LOOPBACK, port), Handler)

    def server_bind(self) -> None:
        """Without the look-up of a name that the parent makes."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def service_actions(self) -> None:
        """Between two questions: the place to end."""
        self.between()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nobody's fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            log.exception("a question could not be answered")


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with pages; nothing else is understood."""

    server: Server
    timeout = 30.0  # seconds that a question may take to arrive
    server_version, sys_version = "atomsweep", ""

    def do_GET(self) -> None:
        """A page, or that it has not changed, or one sentence of why there is none."""
        if not _is_here(self.headers.get("Host")):  # a name that somebody else has let point here
            self._answer(403, problem_page("only this machine is answered, as 127.0.0.1"))
            return
        try:
            text = self.server.site.page(urlsplit(self.path).path)
        except NoSuchPage as error:
            self._answer(404, problem_page(str(error)))
        except (UserError, OSError) as error:
            self._answer(500, problem_page(told(error)))
        except Exception as error:  # of one page; the others go on
            log.debug("no page %s", self.path, exc_info=True)
            self._answer(500, problem_page(f"{type(error).__name__}: {error}"))
        else:
            self._answer(200, text)

    do_HEAD = do_GET

    def _answer(self, code: int, text: str) -> None:
        body = text.encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        same = code == 200 and self.headers.get("If-None-Match") == tag
        self.send_response(304 if same else code)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if code == 200:
            self.send_header("ETag", tag)
        if not same:
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not same and self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A terminal is not filled with questions."""


def opened(site: Site, port: int | None) -> Server:
    """A server on the port, or on the first that is free where none is named.

    Raises:
        UserError: the named one is in use or no port, or none is free.
    """
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f"--port must be between 0 and 65535, got {port}")
    for number in range(PORT, PORT + TRIED) if port is None else [port]:
        try:
            return Server(site, number)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = error.strerror
    if port is not None:
        raise UserError(f"port {port} cannot be had ({why}); name another, or 0 for any free one")
    raise UserError(
        f"ports {PORT} to {PORT + TRIED - 1} are all in use; name another with --port, or 0 for "
        "any free one"
    )


def _is_here(host: str | None) -> bool:
    """Whether a question was asked of this machine by a name of its own."""
    try:
        name = urlsplit(f"//{host or ''}").hostname
    except ValueError:
        return False
    return name in ("localhost", LOOPBACK, "::1")
