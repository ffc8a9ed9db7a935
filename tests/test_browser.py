"""The run page in a real Chromium, on a store with real runs."""

import importlib.util
import os
import shutil
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from fmtl.commands.train import train
from fmtl.settings import schema

SCRIPT = Path(__file__).parent.parent / "docs" / "screenshots.py"


@pytest.fixture(scope="module")
def screenshots():
    if not (shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome"))):
        if os.environ.get("CI"):
            pytest.fail("Chromium and its driver are not installed: apt-get install chromium chromium-driver")
        pytest.skip("needs Chromium and its driver")
    spec = importlib.util.spec_from_file_location("screenshots", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # selenium's and urllib3's
def test_a_run_page_answers_in_a_browser(store, dataset, screenshots, tmp_path):
    for mode in ("tuned", "baseline"):
        train(
            schema.TrainSettings(
                data=str(dataset.folder), backbone="resnet18", mode=mode, weights="none", epochs=2, px=48
            )
        )
    first, second = screenshots.newest_runs(store)[:2]
    task = dataset.tasks[0]
    shots = Path(os.environ.get("FMTL_SCREENSHOTS", tmp_path / "shots"))
    seen = {}
    with screenshots.ui(store) as address, screenshots.chromium() as driver:
        screenshots.settle(driver, address)
        for name, page in screenshots.pages(first, second, task.slug).items():
            screenshots.shoot(driver, address, page, shots / f"{name}.png")
            seen[name] = (
                driver.find_element("tag name", "body").text,
                driver.execute_script("return [...document.images].map(i => [i.naturalWidth, i.naturalHeight])"),
                [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"],
            )
    text, _, _ = seen["ui_overview"]
    assert "resnet18" in text and f"{first.data.metrics['test/avg/f1']:.3f}" in text
    assert "fmtl register --run" in text and "most frequent class" in text
    text, _, _ = seen["ui_charts"]
    assert {"accuracy", "f1", "precision", "recall"} <= set(text.split())
    assert f"confusion/{task.slug}" in seen["ui_frames"][0]
    for kind in ("ui_confusion", "ui_roc"):
        path = f"{kind.removeprefix('ui_')}/{task.slug}.png"
        local = mlflow.artifacts.download_artifacts(run_id=first.info.run_id, artifact_path=path)
        with Image.open(local) as picture:
            assert list(picture.size) in seen[kind][1]
    text, images, _ = seen["ui_gallery"]
    assert "Where it looks" in text and "Labels that may be wrong" in text and len(images) > 20
    text, _, _ = seen["ui_compare"]
    assert first.info.run_name in text and second.info.run_name in text
    ours = [entry for _, _, errors in seen.values() for entry in errors if "artifact" in entry["message"]]
    assert ours == []
