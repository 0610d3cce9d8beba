"""The page at `/` in headless Chromium; skipped if it is not installed."""

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from service_server import FakeNetwork, image_file, metric, post, served, wait_until

import ppose
from ppose.inference.request import Request

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "window-size=1280,860",
        "use-fake-device-for-media-stream",
        "use-fake-ui-for-media-stream",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def real():
    """A client of a service with a real network."""
    estimator = ppose.load(ROOT / "configs" / "imhn_quickstart.yml")

    def estimate(images):
        return list(estimator.run([Request(image) for image in images]))

    with served(estimate, estimator.skeleton, max_bytes=1_000_000) as client:
        yield client


class Page:
    """The page of a service in the browser."""

    def __init__(self, browser, client):
        self.browser = browser
        self.client = client
        browser.get(str(client.base_url))
        loaded = "return performance.getEntriesByName(location.origin + '/skeleton').length"
        wait_until(lambda: self.run(loaded) > 0)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def element(self, name):
        return self.browser.find_element("id", name)

    def text(self, name):
        return self.element(name).text

    def choose(self, *files):
        self.element("file").send_keys("\n".join(map(str, files)))

    def slide(self, name, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.element(name), value)

    def drawn(self):
        """Number of non-transparent pixels of the overlay."""
        return self.run(
            "const c = document.getElementById('overlay');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n"
        )

    def status_size(self):
        """Width and height of the image in the status line."""
        return [int(number) for number in re.findall(r"\d+", self.text("status"))[-2:]]

    def displayed_size(self):
        """Width and height of the displayed image."""
        return self.run("const c = document.getElementById('image'); return [c.width, c.height]")

    def posts(self):
        """(start, end) in milliseconds of each POST so far."""
        return self.run(
            "return performance.getEntriesByName(location.origin + '/pose')"
            ".map((e) => [e.startTime, e.responseEnd])"
        )

    def browser_errors(self):
        """Messages of the browser's console, such as violations of the content security policy."""
        messages = [one["message"] for one in self.browser.get_log("browser")]
        return [text for text in messages if "willReadFrequently" not in text]  # of `drawn`


@pytest.fixture
def page(browser, real):
    page = Page(browser, real)
    page.browser_errors()
    return page


def test_choose_an_image(page, real):
    expected = real.post("/pose", files={"image": PEOPLE.read_bytes()}).json()["people"]
    assert page.drawn() == 0
    page.choose(PEOPLE)
    wait_until(lambda: " ms (network" in page.text("status"))
    assert page.status_size() == [640, 480]
    assert page.text("people").startswith("3 people, 4 below 0.15\n")
    page.slide("person-score", 0)
    assert page.text("people").startswith(f"{len(expected)} people\n")
    rows = page.element("people").find_elements("css selector", "tbody tr")
    scores = [row.find_elements("tag name", "td")[1].text for row in rows]
    assert scores == [f"{one['score']:.2f}" for one in expected]
    assert page.drawn() > 1000
    assert not page.element("error").is_displayed()
    assert page.browser_errors() == []


def test_skeleton_is_drawn_at_the_joints(page, real):
    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    page.slide("joint-score", 0.5)
    page.slide("person-score", 0)
    people = real.post("/pose", files={"image": PEOPLE.read_bytes()}).json()["people"]
    seen = [(x, y) for one in people for x, y, score in one["keypoints"] if score >= 0.5]
    opaque = page.run(
        "const c = document.getElementById('overlay'), [w, h] = [c.width, c.height];"
        "const s = Math.min(w / 640, h / 480), p = c.getContext('2d');"
        "return arguments[0].map(([x, y]) => p.getImageData((w - s * 640) / 2 + s * (x + .5),"
        "(h - s * 480) / 2 + s * (y + .5), 1, 1).data[3])",
        seen,
    )
    assert len(seen) > 20
    assert min(opaque) > 200


def test_sliders_hide_people_and_joints(page):
    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    before = page.drawn()
    page.slide("joint-score", 0.8)
    assert page.text("joint-score-value") == "0.80"
    fewer = page.drawn()
    assert 0 < fewer < before
    page.slide("person-score", 1)
    assert page.drawn() == 0
    assert page.element("people").find_elements("css selector", "tbody tr") == []
    assert page.text("people").startswith("no people, ")


@pytest.mark.parametrize("mirrored", [False, True])
def test_tooltip_of_joints(page, real, mirrored):
    from selenium.webdriver import ActionChains

    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    one = real.post("/pose", files={"image": PEOPLE.read_bytes()}).json()["people"][0]
    joint = max(range(17), key=lambda i: one["keypoints"][i][2])
    x, y, score = one["keypoints"][joint]
    stage = page.element("stage").size
    scale = min(stage["width"] / 640, stage["height"] / 480)
    if mirrored:
        page.element("mirror").click()
        x = 640 - x
    offset = round(scale * (x - 320)), round(scale * (y - 240))
    ActionChains(page.browser).move_to_element_with_offset(page.element("stage"), *offset).perform()
    wait_until(lambda: page.element("tip").is_displayed())
    assert f"{score:.2f} · person 1, {one['score']:.2f}" in page.text("tip")


def test_keyboard_navigation(page):
    from selenium.webdriver import ActionChains, Keys

    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    stops = []
    page.run("document.body.tabIndex = -1; document.body.focus()")
    for _ in range(12):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        focus = page.browser.switch_to.active_element
        stops.append(focus.get_attribute("id") or focus.get_attribute("class"))
        if stops[-1] == "person":
            break
    for name in ("choose", "camera", "person-score", "joint-score", "mirror"):
        assert name in stops
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    assert page.element("joints").is_displayed()
    assert page.text("joints").startswith("Person 1\nnose\n")
    focus = page.browser.switch_to.active_element
    assert focus.get_attribute("aria-pressed") == "true"


def test_drop_an_image(page):
    point = {"x": 300, "y": 300}
    data = {"items": [], "files": [str(PEOPLE)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, **point, "data": data}
        page.browser.execute_cdp_cmd("Input.dispatchDragEvent", event)
    wait_until(lambda: page.drawn() > 1000)
    assert "dropping" not in page.element("stage").get_attribute("class")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("note.txt", b"hello", "Unsupported image format: "),
        ("empty.png", b"", "This image cannot be used: the image is empty"),
        ("cut.jpg", PEOPLE.read_bytes()[:9000], "This image cannot be used: the image is damaged"),
        ("large.bmp", b"BM" + bytes(1_000_000), "This image is too large: the upload has 100000"),
    ],
)
def test_error_messages(page, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    page.choose(tmp_path / name)
    wait_until(lambda: page.element("error").is_displayed())
    assert page.text("error").startswith(words)
    assert page.element("error").get_attribute("role") == "alert"
    assert page.drawn() == 0
    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    assert not page.element("error").is_displayed()


def test_image_that_the_browser_cannot_display(page, tmp_path):
    (tmp_path / "x.tiff").write_bytes(image_file(ending=".tiff"))
    page.choose(tmp_path / "x.tiff")
    wait_until(lambda: "network" in page.text("status"))
    assert page.status_size() == [64, 48]
    assert page.text("status").endswith("cannot show the image itself.")


def test_only_the_last_image_is_shown(browser, tmp_path):
    (tmp_path / "last.png").write_bytes(image_file(300, 200))
    network = FakeNetwork()
    with served(network) as client:
        page = Page(browser, client)
        network.open.clear()
        page.choose(PEOPLE)
        wait_until(lambda: client.app.state.service.queue == 1)
        page.choose(tmp_path / "last.png")
        line = 'ppose_requests_total{path="/pose",status="499"}'
        wait_until(lambda: metric(client, line) == 1)
        network.open.set()
        wait_until(lambda: "network" in page.text("status"))
        assert page.status_size() == page.displayed_size() == [300, 200]
        assert len(network.sizes) == 3


def test_camera(page):
    page.element("camera").click()
    wait_until(lambda: "frames/s" in page.text("status"))
    assert page.element("camera").get_attribute("aria-pressed") == "true"
    assert page.element("mirror").is_selected()
    wait_until(lambda: len(page.posts()) >= 5)
    assert page.displayed_size() == [640, 360]
    page.element("camera").click()
    assert page.text("status") == "The camera is off."
    time.sleep(0.3)  # the cancelled request is listed with a delay
    posts = page.posts()
    starts, ends = zip(*posts, strict=True)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False)), posts
    time.sleep(0.3)
    assert len(page.posts()) == len(posts)
    assert page.browser_errors() == []


def test_camera_waits_while_the_service_is_busy(browser):
    network = FakeNetwork()
    with served(network, max_queue=1) as client:
        page = Page(browser, client)
        network.open.clear()
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(post, client, image_file())
            wait_until(lambda: client.app.state.service.queue == 1)
            page.element("camera").click()
            wait_until(lambda: page.text("error").startswith("The service is busy: all 1 places"))
            network.open.set()
            assert other.result().status_code == 200
            wait_until(lambda: "frames/s" in page.text("status"))
        assert not page.element("error").is_displayed()
        page.element("camera").click()


def test_service_not_running(browser):
    with served(FakeNetwork()) as client:
        page = Page(browser, client)
    page.choose(PEOPLE)
    wait_until(lambda: page.element("error").is_displayed())
    assert page.text("error") == "The service does not respond. Is it running?"
