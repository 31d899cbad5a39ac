"""What TensorBoard gets, and what a browser shows of it."""

import io
import shutil
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT, tensorboard
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from data import SpikeDataModule
from evaluation.run_folders import read_results
from model import SequentialAutoencoder
from training.tensorboard import draw_inference

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PRETRAINED = ROOT / "lightning_logs" / "pretrained"
FIGURES = {"inference", "latents", "inferred_against_true"}


@pytest.fixture(params=["sweep", "pretrained"])
def folder(request) -> Path:
    """A sweep that was just trained, and the one that comes with the repo."""
    is_new = request.param == "sweep"
    return request.getfixturevalue("sweep")[0] if is_new else PRETRAINED


def test_a_run_has_a_text_charts_and_figures(folder):
    for run in folder.glob("bandwidth_*"):
        events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
        text, layout = (
            events.Tensors(name)[0].tensor_proto.string_val[0]
            for name in ("run/text_summary", "custom_scalars__config__")
        )
        config = f"lightning_logs/{folder.name}/{run.name}/config.yaml"
        assert f"python train.py --config {config}" in text.decode()
        charts = [chart for part in Layout.FromString(layout).category for chart in part.chart]
        tags = {tag.strip("^$") for chart in charts for tag in chart.multiline.tag}
        logged = set(events.Tags()["scalars"]) | {"valid/r2_unobserved"}
        assert {"valid/r2", "valid/bps"} <= tags <= logged
        assert set(events.Tags()["images"]) == FIGURES
        n_epochs = events.Scalars("train/learning_rate")[-1].step
        for figure in FIGURES:
            images = events.Images(figure)
            assert 2 <= len(images) <= 3
            assert images[-1].step == n_epochs
            image = Image.open(io.BytesIO(images[-1].encoded_image_string)).convert("L")
            assert len(set(image.tobytes())) > 50
        assert sum(path.stat().st_size for path in run.glob("events*")) < 1e6


def test_the_scores_of_the_best_checkpoint_and_the_settings_are_in_hparams(folder):
    for row in read_results(folder):
        run = folder / f"bandwidth_{row['bandwidth']:02}"
        events = EventAccumulator(str(run)).Reload()
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        for name in (b"bandwidth", b"seed", b"setting/hidden_size", b"setting/refinement"):
            assert name in content
        tags = events.Tags()["scalars"]
        for name in ("r2", "bps"):
            (tag,) = (tag for tag in tags if tag.endswith(f"best/{name}"))
            assert events.Scalars(tag)[0].value == pytest.approx(row[name], abs=1e-6)


def test_the_best_scores_are_after_the_curves_and_at_their_end(sweep):
    for run in sweep[0].glob("bandwidth_*"):
        events = EventAccumulator(str(run)).Reload()
        assert sorted(events.Tags()["scalars"])[-1].startswith("valid_best/")
        assert events.Scalars("valid_best/r2")[0].step == events.Scalars("valid/r2")[-1].step


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    words = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync window-size=1500,1000"
    )
    for word in words.split():
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """TensorBoard on the runs that come with the repo, without others that are in its folder."""
    folder = tmp_path_factory.mktemp("logs")
    shutil.copytree(PRETRAINED, folder / "lightning_logs" / "pretrained")
    with tensorboard(folder, "--logdir", "lightning_logs") as address:
        yield address


# the text of the page, also of what its components keep to themselves
PAGE_TEXT = """
    const texts = [];
    const visit = (node) => {
        if (node.nodeType === Node.TEXT_NODE) texts.push(node.textContent);
        if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName)) return;
        if (node.shadowRoot) visit(node.shadowRoot);
        node.childNodes.forEach(visit);
    };
    visit(document.body);
    return texts.join(" ");
"""


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver")
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        (
            "scalars&tagFilter=valid/r2|valid/bps&_smoothingWeight=0",
            ["valid/r2", "valid/r2_amortised", "valid/bps"],
        ),
        ("custom_scalars&_smoothingWeight=0", ["R² of inferred to true rates", "bits per spike"]),
        ("images", ["inference", "latents", "step"]),
        ("text", ["Selective backpropagation through time", "--config"]),
        ("hparams", ["bandwidth", "seed", "best/r2", "best/bps"]),
    ],
)
def test_a_browser_shows(browser, address, request, page, shown):
    name, results = page.split("&")[0], read_results(PRETRAINED)
    shown = shown + [f"pretrained/bandwidth_{row['bandwidth']:02}" for row in results]
    if name == "hparams":
        shown += [f"{row[score]:.5f}"[:-1] for row in results for score in ("r2", "bps")]
    browser.get(f"{address}/#{page}")
    deadline, n_looks, text = time.monotonic() + PATIENCE, 0, ""
    while not all(words in text for words in shown) and time.monotonic() < deadline:
        # a page of the same application is not loaded by its address alone, and HPARAMS keeps what
        # it had if the runs were not yet read
        if n_looks % 50 == 0:
            browser.refresh()
        time.sleep(0.2)
        text, n_looks = browser.execute_script(PAGE_TEXT), n_looks + 1
    assert [words for words in shown if words not in text] == []
    if folder := request.config.getoption("--screenshots"):
        time.sleep(3)  # for what is still being drawn
        browser.save_screenshot(folder / f"tensorboard_{name}.png")


def test_a_model_that_diverged_has_no_figures(small_lorenz):
    data = SpikeDataModule(small_lorenz, bandwidth=4)
    data.setup()
    model = SequentialAutoencoder(data.n_neurons, data.bin_width, hidden_size=8).eval()
    assert draw_inference(model, data).keys() > {"inference"}
    model.readout.bias.data += 200.0  # rates overflow
    assert draw_inference(model, data) == {}
