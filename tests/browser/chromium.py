"""A headless Chromium driven over its DevTools pipe, with nothing but the standard library.

https://chromedevtools.github.io/devtools-protocol: with --remote-debugging-pipe the browser reads
messages from descriptor 3 and writes them to descriptor 4, each JSON that a zero byte ends.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic
  --no-first-run --disable-background-networking --disable-component-update --disable-sync
  --disable-extensions --hide-scrollbars --remote-debugging-pipe"""
_PATIENCE = 60  # seconds, for a machine that is busy with other tests


def find() -> str | None:
    """Returns the path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def opened(path: str, profile: Path) -> Iterator["Page"]:
    """Starts the browser with an empty profile and yields its one page; ends it afterwards."""
    theirs, write = os.pipe()
    read, ours = os.pipe()
    flags = [*_FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    # The shell puts the pipes where the browser looks for them, whatever numbers they have.
    shell = f'exec "$@" 3<&{theirs} 4>&{ours}'
    command = ["bash", "-c", shell, "chromium", path, *flags]
    process = subprocess.Popen(command, pass_fds=(theirs, ours), stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(ours)
    try:
        page = Page(read, write)
        yield page
        page.close()
        process.wait(_PATIENCE)
    finally:
        process.kill()
        os.close(read)
        os.close(write)


class Page:
    """One tab: what it is asked, what it answers, and every event it told since it was opened."""

    def __init__(self, read: int, write: int):
        self._read, self._write, self._rest, self._count = read, write, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        targets = self.ask("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the browser's answer to a DevTools method."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def load(self, path: Path) -> None:
        """Opens a file and returns when it and its images are there."""
        self.events.clear()
        if error := self.ask("Page.navigate", url=path.absolute().as_uri()).get("errorText"):
            raise FileNotFoundError(f"{path}: {error}")
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression, awaited."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def resize(self, width: int, height: int, *, scheme: str = "light") -> None:
        """Gives the page a window of this many pixels, and the user's wish for light or dark."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        wish = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[wish])

    def photograph(self, path: Path) -> None:
        """Writes the whole page, not only what the window shows, as a PNG."""
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        """Ends the browser, which then leaves its profile alone."""
        self._session = None
        self.ask("Browser.close")

    def complaints(self) -> list[str]:
        """Returns the errors and warnings of the console, and exceptions nobody caught."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Returns the addresses that the page asked the network for, the page's own left out."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [each["request"]["url"] for each in sent if each.get("type") != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"the browser said nothing for {_PATIENCE} s")
            part = os.read(self._read, 2**16)
            if not part:
                raise EOFError("the browser ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
