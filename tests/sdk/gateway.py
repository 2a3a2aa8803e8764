"""The gateway's binary as a child process."""

import os
import pathlib
import queue
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADMIN_TOKEN = "test-admin-token-0123456789abcdef"
START_LIMIT = 30
READY_LINE = "listening on "


def binary():
    """The binary under test: BREAKWATER_BIN, or the debug build of this tree."""
    given = os.environ.get("BREAKWATER_BIN")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(given) if given else target / "debug" / "breakwater"
    assert path.is_file(), f"{path} does not exist; build it with `cargo build`"
    return str(path)


class Gateway:
    def __init__(self, folder, *arguments, env=None):
        self.log = []
        lines = queue.Queue()
        self.process = subprocess.Popen(
            [binary(), "serve", *arguments, "--listen", "127.0.0.1:0"],
            cwd=folder,
            env={**os.environ, "BREAKWATER_ADMIN_TOKEN": ADMIN_TOKEN, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for pipe, first in ((self.process.stdout, lines), (self.process.stderr, None)):
            threading.Thread(target=self._follow, args=(pipe, first), daemon=True).start()
        try:
            line = lines.get(timeout=START_LIMIT)
        except queue.Empty:
            line = ""
        if not line.startswith(READY_LINE):
            self.process.kill()
            raise AssertionError(f"the first line is `{line}`\n" + "".join(self.log))
        self.base = line.removeprefix(READY_LINE).strip()
        self._wait_ready()

    def _follow(self, pipe, first):
        for line in pipe:
            self.log.append(line)
            if first is not None:
                first.put(line)
                first = None
        if first is not None:
            first.put("")

    def _wait_ready(self):
        until = time.monotonic() + START_LIMIT
        while True:
            try:
                with urllib.request.urlopen(f"{self.base}/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            assert time.monotonic() < until, "the gateway is not ready\n" + "".join(self.log)
            time.sleep(0.01)

    def stop(self):
        """Stops politely; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
