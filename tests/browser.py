"""A phone's view of a page, by headless Chromium.

chromedriver speaks the W3C WebDriver protocol over HTTP; the five calls needed here are made with the standard library,
as Selenium would add eight packages to five pinned environments.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

PHONE = {"deviceMetrics": {"width": 390, "height": 844, "pixelRatio": 2.0, "mobile": True, "touch": True}}


def missing() -> str:
    """Say what is missing for a browser, "" if nothing is."""
    if shutil.which("chromedriver") is None:
        return "chromedriver is not installed (Debian: apt-get install chromium chromium-driver)"
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return "Chromium is not installed (Debian: apt-get install chromium chromium-driver)"
    return ""


class Page:
    """One tab of the browser."""

    def __init__(self, address: str, session: str):
        self.address, self.session = address, session

    def open(self, path: Path) -> None:
        """Load a file, without any network."""
        _call(f"{self.address}/session/{self.session}/url", {"url": path.resolve().as_uri()})

    def run(self, script: str):
        """Return what a piece of JavaScript returns."""
        return _call(f"{self.address}/session/{self.session}/execute/sync", {"script": script, "args": []})

    def photograph(self, path: Path) -> None:
        """Save what is on the screen as PNG."""
        shot = _call(f"{self.address}/session/{self.session}/screenshot")
        path.write_bytes(base64.b64decode(shot))

    def complaints(self) -> list[str]:
        """Return what the browser's console says went wrong."""
        entries = _call(f"{self.address}/session/{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@contextmanager
def phone(folder: Path):
    """Open a phone-sized page; `folder` is for the browser's profile."""
    driver, address = _started(folder / "chromedriver.log")
    try:
        arguments = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
                     f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium refuses its sandbox to root, as in containers
        options = {"args": arguments, "mobileEmulation": PHONE}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
        session = _call(f"{address}/session", {"capabilities": wanted})["sessionId"]
        try:
            yield Page(address, session)
        finally:
            _call(f"{address}/session/{session}", method="DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _started(log: Path) -> tuple[subprocess.Popen, str]:
    """Start chromedriver on a free port; another program may take the port first, hence the tries."""
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with open(log, "wb") as file:
            driver = subprocess.Popen(
                ["chromedriver", f"--port={port}"], stdout=file, stderr=subprocess.STDOUT
            )
        give_up = time.time() + 30
        while time.time() < give_up and driver.poll() is None:
            if "started successfully" in log.read_text(errors="replace"):
                return driver, f"http://127.0.0.1:{port}"
            time.sleep(0.1)
        driver.kill()
        driver.wait()
    raise RuntimeError(f"chromedriver did not start: {log.read_text(errors='replace')}")


def _call(url: str, content: dict | None = None, method: str | None = None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]
