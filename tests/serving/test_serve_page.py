"""The page at `/`, in a real Chromium: a photograph dropped, chosen, taken with the camera."""

from __future__ import annotations

import importlib.util
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fasttrain import predict
from tests.support.service import Service, serving

pytest.importorskip("fastapi_offline", reason="without the extra `serve`")
pytestmark = pytest.mark.full
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
DROP = """files => {
    const data = new DataTransfer();
    for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
    document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def service(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(model_folder, tmp_path_factory.mktemp("page"), "--max-body", "1") as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright").sync_playwright
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=camera)
        yield browser
        browser.close()


def open_page(browser: Any, address: str, device: str) -> tuple[Any, list[str]]:
    """Return the page and what goes wrong on it."""
    width, height = WIDTHS[device]
    view = {"viewport": {"width": width, "height": height}, "is_mobile": device == "phone"}
    tab = browser.new_context(permissions=["camera"], **view).new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: complaints.append(request.url) if is_elsewhere(request.url, address) else None)
    tab.goto(address)
    tab.wait_for_selector("#model:has-text('classes')")
    return tab, complaints


def is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "blob:", "data:"))


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_a_photograph_gets_the_classes_of_predict(browser, service, model_folder, photographs, device):
    picture = sorted(photographs.glob("*/0000.jpg"))[0]
    (expected,) = predict(model_folder, picture, device="cpu")
    tab, complaints = open_page(browser, service.address, device)
    tab.evaluate(DROP, [[picture.name, list(picture.read_bytes())]])
    tab.wait_for_selector("article li")
    assert tab.locator("article li").evaluate_all("rows => rows.map(row => row.dataset.class)") == list(
        expected.classes
    )
    shown = tab.locator("article li").first.inner_text().split()[-2]
    assert float(shown) == pytest.approx(100 * min(expected.probabilities[0], 0.999), abs=0.051)
    bars = "row => getComputedStyle(row, '::after').backgroundImage"
    assert str(100 * expected.probabilities[0])[:4] in tab.locator("article li").first.evaluate(bars)
    assert not tab.locator(".legend").is_visible() and not tab.locator(".heat").is_visible()
    assert tab.locator(".photograph").evaluate("image => image.naturalWidth") > 0
    if importlib.util.find_spec("captum"):
        assert "Click a class" in tab.locator(".hint").inner_text()
        before = tab.locator("article").bounding_box()["height"]
        tab.locator("article li").nth(1).click()
        tab.wait_for_selector(".heat:visible")
        assert tab.locator(".heat").get_attribute("alt") == f"Heat map of {expected.classes[1]}"
        assert tab.locator(".heat").evaluate("image => image.naturalWidth") > 0
        legend = tab.locator(".legend").inner_text()
        assert " ".join(legend.split()) == f"Where it looks for {expected.classes[1]}: little much"
        assert not tab.locator(".hint").is_visible() and not tab.locator(".photograph").is_visible()
        assert tab.locator("article").bounding_box()["height"] == before
    tab.set_input_files("#files", [str(picture), str(picture)])
    tab.locator("article li").nth(14).wait_for()
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [WIDTHS[device][0]] * 2
    buttons = tab.locator("button:visible").evaluate_all("all => all.map(each => each.getBoundingClientRect().height)")
    assert len(buttons) == 2 and min(buttons) >= 44
    assert complaints == []
    tab.context.close()


def test_the_camera_takes_a_photograph(browser, service):
    tab, complaints = open_page(browser, service.address, "phone")
    tab.click("#camera")
    tab.click("#shoot")
    tab.wait_for_selector("article li")
    assert tab.locator("figcaption").inner_text() == "camera.jpg" and not tab.locator("dialog").is_visible()
    assert tab.evaluate(
        "document.querySelector('video').srcObject.getTracks().every(each => each.readyState == 'ended')"
    )
    assert complaints == []
    tab.context.close()


def test_what_is_no_photograph_is_told_why(browser, service):
    tab, _ = open_page(browser, service.address, "desktop")
    tab.evaluate(DROP, [["notes.jpg", list(b"hello")]])
    tab.wait_for_selector(".state.bad")
    assert "not a photograph" in tab.locator(".state").inner_text()
    tab.set_input_files("#files", {"name": "huge.jpg", "mimeType": "image/jpeg", "buffer": bytes(1_000_001)})
    tab.wait_for_selector(".state:has-text('larger than 1 MB')")
    tab.context.close()


def test_a_damaged_photograph_has_a_small_card(browser, service):
    Image.effect_noise((600, 1200), 50).save(whole := io.BytesIO(), "JPEG")
    tab, _ = open_page(browser, service.address, "desktop")
    tab.evaluate(DROP, [["half.jpg", list(whole.getvalue()[: len(whole.getvalue()) // 2])]])
    tab.wait_for_selector(".state.bad")
    assert tab.locator(".photograph").is_visible()
    assert tab.locator("article").bounding_box()["height"] < 220
    tab.context.close()


def test_photographs_of_one_drop_keep_their_order_above_older_ones(browser, service, photographs):
    pictures = [each.read_bytes() for each in sorted(photographs.glob("*/0000.jpg"))[:3]]
    tab, _ = open_page(browser, service.address, "desktop")
    for names in (["a.jpg", "b.jpg", "c.jpg"], ["d.jpg", "e.jpg"]):
        tab.evaluate(DROP, [[name, list(data)] for name, data in zip(names, pictures, strict=False)])
    assert tab.locator("figcaption").all_inner_texts() == ["d.jpg", "e.jpg", "a.jpg", "b.jpg", "c.jpg"]
    tab.locator("article:has(li)").nth(4).wait_for()
    tab.context.close()


def test_the_page_asks_for_the_token(browser, model_folder, photographs, tmp_path):
    picture = sorted(photographs.glob("*/0000.jpg"))[0].read_bytes()
    with serving(model_folder, tmp_path, FASTTRAIN_SERVE_TOKEN="sécret €") as service:
        tab = browser.new_page()
        tab.goto(service.address)
        tab.wait_for_selector("#token")
        assert not tab.locator("#problem").is_visible()
        for wrong in ("nonsense", "sécret ¥"):
            tab.fill("#secret", wrong)
            tab.click("#token button")
            tab.wait_for_selector("#problem:has-text('This token is wrong.')")
        assert tab.locator("#choose").is_disabled() and tab.locator("#camera").is_disabled()
        tab.evaluate(DROP, [["a.jpg", list(picture)]])
        assert tab.locator("article").count() == 0
        tab.fill("#secret", "sécret €")
        tab.click("#token button")
        tab.wait_for_selector("#model:has-text('classes')")
        assert not tab.locator("#token").is_visible() and not tab.locator("#problem").is_visible()
        assert tab.locator("#choose").is_enabled() and tab.locator("#camera").is_enabled()
        tab.evaluate(DROP, [["a.jpg", list(picture)]])
        tab.wait_for_selector("article li")
        tab.close()


def test_the_api_page_opens_without_a_network(browser, service):
    tab, complaints = open_page(browser, service.address, "desktop")
    tab.goto(f"{service.address}/docs")
    tab.wait_for_selector(".opblock-summary-path")
    assert tab.locator(".opblock").count() == 4
    assert complaints == []
    tab.close()
