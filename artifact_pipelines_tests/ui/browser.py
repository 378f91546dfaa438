"""The real Dagster UI on what the demonstration left, and a browser in front of it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 180.0  # seconds, of a machine that is busy with other things
WIDTH, HEIGHT = 1280, 860
_SETTLED = 2_000  # milliseconds

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
]


def missing() -> str:
    """Return what is needed to drive a browser and is not there, or nothing."""
    if find_spec("playwright") is None:
        return "playwright is not installed: make test-ui installs it"
    return "" if chromium() else "there is no Chromium: apt-get install chromium"


def chromium() -> str:
    """Return the system's Chromium, or nothing."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chrome") or ""


@contextmanager
def demonstrated(folder: Path) -> Iterator[str]:
    """Run the demonstration in a home of its own, open the UI on it and yield its address."""
    home = folder / "home"
    environment = {
        **{name: text for name, text in os.environ.items() if "DAGSTER" not in name},
        "ARTIFACT_PIPELINES_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples' / 'digits'}",
        "OMP_NUM_THREADS": "1",
    }
    request = ["model", "request", "digits/v4", "--stage", "production", "--reason", "a try"]
    for words in (["demo"], request):
        subprocess.run(
            [sys.executable, "-m", "artifact_pipelines.cli", *words],
            cwd=ROOT,
            env=environment,
            check=True,
            # What goes wrong is said on standard error.
            stdout=subprocess.DEVNULL,
        )
    with _dagster(home, environment) as address:
        yield address


@contextmanager
def _dagster(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run `dagster dev` as `make dev` does; everything of it is killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (home.parent / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).parent / "dagster"), "dev"),
                *("-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE
        while not _answers(address):
            assert process.poll() is None, log.name
            assert time.monotonic() < end, log.name
            time.sleep(0.5)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/server_info", timeout=5) as answer:  # noqa: S310 (ours)
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _colours(response: Any) -> bool:  # noqa: ANN401 (Playwright may not be installed)
    return "AssetGraphLiveQuery" in (response.request.post_data or "")


class Page:
    """A tab of a browser that looks at Dagster's UI.

    Attributes:
        address: Where the UI is.
        tab: The tab, as Playwright has it.
    """

    def __init__(self, address: str, tab: Any) -> None:  # noqa: ANN401 (it may not be installed)
        """Take a tab."""
        self.address = address
        self.tab = tab
        tab.set_default_timeout(PATIENCE * 1000)

    def open(self, path: str, *said: str) -> None:
        """Open a page and wait until it says everything that is expected of it."""
        self.tab.goto(self.address + path)
        self.wait(*said)

    def wait(self, *said: str) -> None:
        """Wait until the page shows some texts."""
        for text in said:
            self.tab.get_by_text(text).first.wait_for()

    def click(self, text: str) -> None:
        """Click what shows a text."""
        self.tab.get_by_text(text, exact=True).first.click()

    def picture(self, file: Path, beside: str = "", height: int = HEIGHT) -> None:
        """Take a picture when all is still: of the whole, or of a strip that begins at a text."""
        self.tab.wait_for_timeout(_SETTLED)
        box = self.tab.get_by_text(beside).last.bounding_box() if beside else None
        clip = box and {
            "x": box["x"] - 8,
            "y": box["y"] - 8,
            "width": WIDTH - box["x"],
            "height": height,
        }
        self.tab.screenshot(path=str(file), clip=clip)

    def graph(self) -> None:
        """Open the graph of the example."""
        # What each asset is comes after its name, and colours it.
        with self.tab.expect_response(_colours):
            self.open("/locations/digits_project/asset-groups/digits", "training_run", "production")

    def checkpoints(self, run: str) -> None:
        """Open the page of a run's checkpoints."""
        self.open(
            f"/assets/digits/checkpoints?view=partitions&partition={run}", "last_step", "table"
        )

    def curve(self, run: str) -> None:
        """Open the curves of a run."""
        self.checkpoints(run)
        self.click("[Show Markdown]")
        self.tab.locator("img[alt='accuracy by step']").wait_for()

    def failed_gate(self, gate: str) -> None:
        """Open what a gate has said of each run."""
        self.open(f"/assets/digits/candidate?view=checks&checkDetail={gate}", "Latest execution")
        self.click("Execution history")

    def materialize_production(self) -> None:
        """Ask for production as a person does, and open the run that was launched."""
        self.open("/assets/digits/production", "The model that production points at.")
        self.tab.get_by_role("button", name="Materialize").first.click()
        self.click("View")
        self.wait("Failure", "RUN_FAILURE")


@contextmanager
def page(address: str) -> Iterator[Page]:
    """Yield a tab of a browser that was never used before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=chromium(),
            args=_FLAGS,
            viewport={"width": WIDTH, "height": HEIGHT},
        )
        try:
            yield Page(address, context.pages[0] if context.pages else context.new_page())
        finally:
            context.close()
