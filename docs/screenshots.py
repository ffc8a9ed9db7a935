"""The pictures of docs/images that show the MLflow UI, the error gallery and the plots of a run.

    python docs/screenshots.py STORE [--out docs/images] [--only gallery]

STORE is a folder with ``mlflow.db`` that holds two or more completed train runs. Needs Chromium and its driver
(Debian: ``apt-get install chromium chromium-driver``) and selenium.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import mlflow
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WIDTH, HEIGHT = 1500, 1000
SHOWN = ("ui_overview", "ui_charts", "ui_confusion", "ui_compare")  # in docs/runs.md
PATIENCE = 60  # seconds for a page to show what it should


@dataclass(frozen=True)
class Page:
    """What to open and what must be seen there.

    Attributes:
        path: Below the UI's address.
        texts: Words that the page shows.
        clicks: Words to click on before that, in order.
        search: What to type into the search for charts.
        frame: Whether the texts are inside its iframe, where MLflow shows HTML artifacts.
        scroll_to: Words to scroll to.
    """

    path: str
    texts: tuple[str, ...]
    clicks: tuple[str, ...] = ()
    search: str = ""
    frame: bool = False
    scroll_to: str = ""


@contextlib.contextmanager
def ui(store: Path) -> Iterator[str]:
    """``mlflow ui`` on the store of a folder. Yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, cwd=store, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mlflow ui did not start: {' '.join(command)}")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def chromium(width: int = WIDTH, height: int = HEIGHT) -> Iterator[WebDriver]:
    """A headless Chromium that keeps its console's messages."""
    options = Options()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def visit(driver: WebDriver, address: str, page: Page) -> None:
    """Open a page and wait until everything it should show is there.

    Raises:
        TimeoutException: It does not appear.
    """
    driver.switch_to.default_content()
    driver.get("about:blank")
    driver.get(f"{address}/#/{page.path}")
    for words in page.clicks:
        WebDriverWait(driver, PATIENCE).until(lambda d, words=words: _words(d, words), words)
        driver.execute_script("arguments[0].click()", _words(driver, words)[0])
    if page.search:
        box = WebDriverWait(driver, PATIENCE).until(
            lambda d: d.find_elements(By.CSS_SELECTOR, "input[placeholder='Search metric charts']")
        )
        box[0].send_keys(Keys.CONTROL, "a")
        box[0].send_keys(page.search)
    if page.frame:
        WebDriverWait(driver, PATIENCE).until(lambda d: d.find_elements(By.CSS_SELECTOR, "iframe"))
        driver.switch_to.frame(driver.find_element(By.CSS_SELECTOR, "iframe"))
    for text in page.texts:
        WebDriverWait(driver, PATIENCE).until(
            lambda d, text=text: text in d.find_element(By.TAG_NAME, "body").text, text
        )
    WebDriverWait(driver, PATIENCE).until(_pictures_are_loaded)
    if page.scroll_to:
        driver.execute_script("arguments[0].scrollIntoView()", _words(driver, page.scroll_to)[0])


def _words(driver: WebDriver, words: str) -> list[WebElement]:
    """Elements whose own text begins with some words, or whose label for the blind does."""
    quoted = json.dumps(words)
    return driver.find_elements(
        By.XPATH, f"//*[starts-with(normalize-space(text()), {quoted}) or starts-with(@aria-label, {quoted})]"
    )


def settle(driver: WebDriver, address: str) -> None:
    """Close the assistant and choose the side of the UI that shows trainings, once per browser."""
    driver.get(f"{address}/#/experiments")
    for words in ("Model training", "Close"):
        with contextlib.suppress(TimeoutException):  # other versions have neither
            WebDriverWait(driver, 8).until(lambda d, words=words: _words(d, words))
            driver.execute_script("arguments[0].click()", _words(driver, words)[0])
            time.sleep(1)


def _pictures_are_loaded(driver: WebDriver) -> bool:
    # Those that are loaded when they come into sight may be far below.
    loaded = "i => i.loading === 'lazy' || (i.complete && i.naturalWidth > 0)"
    return driver.execute_script(f"return [...document.images].every({loaded})")


def shoot(driver: WebDriver, address: str, page: Page, file: Path) -> None:
    visit(driver, address, page)
    time.sleep(1.5)  # transitions and charts
    for where in _words(driver, "Path:"):  # of the store on this machine
        driver.execute_script("arguments[0].style.visibility = 'hidden'", where)
    file.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(file))


def pages(first: mlflow.entities.Run, second: mlflow.entities.Run, slug: str) -> dict[str, Page]:
    """Every page worth a picture, by name."""
    experiment, run = first.info.experiment_id, first.info.run_id
    here = f"experiments/{experiment}/runs/{run}"
    both = quote(json.dumps([run, second.info.run_id]))
    experiments = quote(json.dumps([experiment]))
    return {
        "ui_overview": Page(
            here, ("What is wrong with it", "Parameters", "backbone"), clicks=("Show more",), scroll_to="Description"
        ),
        "ui_charts": Page(f"{here}/model-metrics", ("val/avg", "precision"), search="^val/avg", scroll_to="val/avg"),
        "ui_frames": Page(f"{here}/model-metrics", (f"confusion/{slug}",), search="confusion"),
        "ui_confusion": Page(f"{here}/artifacts/confusion/{slug}.png", (f"{slug}.png",)),
        "ui_roc": Page(f"{here}/artifacts/roc/{slug}.png", (f"{slug}.png",)),
        "ui_gallery": Page(f"{here}/artifacts/gallery/gallery.html", ("The most confident mistakes",), frame=True),
        "ui_compare": Page(
            f"compare-runs?runs={both}&experiments={experiments}", (first.info.run_name, second.info.run_name)
        ),
    }


def newest_runs(store: Path) -> list[mlflow.entities.Run]:
    """Completed train runs, the newest first."""
    mlflow.set_tracking_uri(f"sqlite:///{store / 'mlflow.db'}")
    return mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.`fmtl.kind` = 'train' and tags.`fmtl.outcome` = 'completed'",
        output_format="list",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--task", default="Colour", help="slug of the attribute whose plots are shown")
    parser.add_argument("--only", choices=["gallery"], help="that picture alone")
    asked = parser.parse_args()
    runs = newest_runs(asked.store.resolve())
    if asked.only is None:
        _shoot_ui(asked, runs)
        _copy_plots(asked, runs[0].info.run_id)
    with chromium(1150, 2400) as driver:
        gallery = mlflow.artifacts.download_artifacts(run_id=runs[0].info.run_id, artifact_path="gallery/gallery.html")
        driver.get(Path(gallery).resolve().as_uri())
        driver.save_screenshot(str(asked.out / "gallery.png"))


def _shoot_ui(asked: argparse.Namespace, runs: list[mlflow.entities.Run]) -> None:
    with ui(asked.store.resolve()) as address, chromium() as driver:
        settle(driver, address)
        for name, page in pages(runs[0], runs[1], asked.task).items():
            if name in SHOWN:
                shoot(driver, address, page, asked.out / f"{name}.png")
                print(asked.out / f"{name}.png", flush=True)


def _copy_plots(asked: argparse.Namespace, run_id: str) -> None:
    for kind in ("roc", "precision_recall", "reliability", "per_class"):
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"{kind}/{asked.task}.png")
        shutil.copy(path, asked.out / f"plot_{kind}.png")


if __name__ == "__main__":
    main()
