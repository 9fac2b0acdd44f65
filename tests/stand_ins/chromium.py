"""A headless Chromium of one page, driven over its own DevTools protocol.

`websockets` comes with the service anyway; a driver package would bring a browser or a Node of its own.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_SECONDS = 300
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, "")}


def installed() -> str:
    """The browser's path; the test that needs it is skipped where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("NOT TESTED: no Chromium here to drive the playground in (apt-get install chromium)")
    return found


@dataclass(frozen=True)
class Sent:
    """A request of the page."""

    url: str
    headers: dict[str, str]
    body: dict[str, Any] | None


class Page:
    """What a person does and sees; every method that waits gives up after WAIT_SECONDS."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self._answers: list[tuple[str, int, bytes, str]] = []
        self._changes: dict[str, dict[str, Any]] = {}
        self.sent: list[Sent] = []
        """Every request, refused ones and such to other hosts included."""
        self.problems: list[str] = []
        """Exceptions, refused resources and everything else in the console."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self._call("Fetch.enable", patterns=[{"urlPattern": "*"}])

    def forget(self) -> None:
        """What was seen and arranged so far."""
        for memory in (self._answers, self._changes, self.sent, self.problems):
            memory.clear()

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Until the expression counts as true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"in vain: {expression}\n{self.text()}"
            self._pump(0.05)

    def wait_for_problem(self, text: str) -> None:
        """Until the console tells of one with this text."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not any(text in problem for problem in self.problems):
            assert time.monotonic() < deadline, f"{text} is not in {self.problems}"
            self._pump(0.05)

    def text(self) -> str:
        return str(self.evaluate("document.body.innerText"))

    def click(self, selector: str) -> None:
        """With the mouse, where the element is."""
        x, y = self.evaluate(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); "
            "node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code, text = _KEYS[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def fill(self, selector: str, value: str) -> None:
        """Set a field or a select, as choosing in it does."""
        self.evaluate(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); "
            f"node.value = {json.dumps(value)}; node.dispatchEvent(new Event('change', {{bubbles: true}})) }})()"
        )

    def look_like(self, width: int, height: int, *, dark: bool = False) -> None:
        mobile = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=mobile,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def answer(self, pattern: str, status: int, body: bytes, kind: str = "application/json") -> None:
        """From now on answer requests of this address instead of the service; the latest such call counts."""
        self._answers.insert(0, (pattern, status, body, kind))

    def change(self, pattern: str, **fields: Any) -> None:
        """From now on add these fields to what is posted to this address."""
        self._changes[pattern] = fields

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, params)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            message = json.loads(self._socket.recv(deadline - time.monotonic()))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self._event(message)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        return self._last

    def _pump(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._event(json.loads(self._socket.recv(left)))
            except TimeoutError:
                return

    def _event(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Fetch.requestPaused":
                self._requested(params)
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled":
                self.problems.append(json.dumps(params["args"]))

    def _requested(self, params: dict[str, Any]) -> None:
        request, paused = params["request"], {"requestId": params["requestId"]}
        url = request["url"]
        posted = json.loads(request["postData"]) if "postData" in request else None
        self.sent.append(Sent(url, request["headers"], posted))
        for pattern, status, body, kind in self._answers:
            if fnmatch(url, pattern):
                sent = {"body": base64.b64encode(body).decode(), "responseCode": status}
                headers = [{"name": "content-type", "value": kind}]
                self._send("Fetch.fulfillRequest", paused | sent | {"responseHeaders": headers})
                return
        for pattern, fields in self._changes.items():
            if posted is not None and fnmatch(url, pattern):
                paused["postData"] = base64.b64encode(json.dumps(posted | fields).encode()).decode()
        self._send("Fetch.continueRequest", paused)


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A fresh browser with an empty page; it is gone afterwards. Its network ends at this machine."""
    command = [
        *(installed(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
    ]
    with (profile.parent / "chromium.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_page_address(profile, process), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def _page_address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + WAIT_SECONDS
    while not (told.exists() and "\n" in told.read_text()):
        assert process.poll() is None, (profile.parent / "chromium.log").read_text()
        assert time.monotonic() < deadline, "Chromium did not open its DevTools port"
        time.sleep(0.05)
    port = told.read_text().splitlines()[0]
    while True:
        listed = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
        pages = [target for target in listed if target["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < deadline, "Chromium opened no page"
        time.sleep(0.05)
