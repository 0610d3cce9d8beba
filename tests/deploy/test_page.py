"""The page at `/` in a real browser, without a window; skipped where there is no Chromium."""

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from service_server import Network, metric, picture, post, served, wait_until

import ppose
from ppose.estimator import Request

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver are installed"
)


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
    """A client of a service with the network that ships."""
    estimator = ppose.load(ROOT / "configs" / "imhn_quickstart.yml")

    def find(images):
        return list(estimator.run([Request(image) for image in images]))

    with served(find, estimator.skeleton, max_bytes=1_000_000) as client:
        yield client


class Page:
    """The page of a service, as somebody uses it."""

    def __init__(self, browser, client):
        self.browser = browser
        self.client = client
        browser.get(str(client.base_url))
        loaded = "return performance.getEntriesByName(location.origin + '/skeleton').length"
        wait_until(lambda: self.run(loaded) > 0)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def of(self, name):
        return self.browser.find_element("id", name)

    def text(self, name):
        return self.of(name).text

    def choose(self, *files):
        self.of("file").send_keys("\n".join(map(str, files)))

    def slide(self, name, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.of(name), value)

    def drawn(self):
        """Pixels of the overlay that are not empty."""
        return self.run(
            "const c = document.getElementById('overlay');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n"
        )

    def size_said(self):
        """Width and height of the picture, as the status says."""
        return [int(number) for number in re.findall(r"\d+", self.text("status"))[-2:]]

    def size_shown(self):
        """Width and height of the picture on the page."""
        return self.run("const c = document.getElementById('picture'); return [c.width, c.height]")

    def posts(self):
        """(start, end) in milliseconds of each POST so far."""
        return self.run(
            "return performance.getEntriesByName(location.origin + '/pose')"
            ".map((e) => [e.startTime, e.responseEnd])"
        )

    def complaints(self):
        """What the browser itself found wrong, refusals of the content policy among it."""
        messages = [one["message"] for one in self.browser.get_log("browser")]
        return [text for text in messages if "willReadFrequently" not in text]  # of `drawn`


@pytest.fixture
def page(browser, real):
    page = Page(browser, real)
    page.complaints()
    return page


def test_a_chosen_picture(page, real):
    expected = real.post("/pose", files={"image": PEOPLE.read_bytes()}).json()["people"]
    assert page.drawn() == 0
    page.choose(PEOPLE)
    wait_until(lambda: " ms (network" in page.text("status"))
    assert page.size_said() == [640, 480]
    assert page.text("people").startswith("3 people, 4 below 0.15\n")
    page.slide("person-score", 0)
    assert page.text("people").startswith(f"{len(expected)} people\n")
    rows = page.of("people").find_elements("css selector", "tbody tr")
    scores = [row.find_elements("tag name", "td")[1].text for row in rows]
    assert scores == [f"{one['score']:.2f}" for one in expected]
    assert page.drawn() > 1000
    assert not page.of("error").is_displayed()
    assert page.complaints() == []


def test_the_skeleton_lies_on_the_joints(page, real):
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
    assert page.of("people").find_elements("css selector", "tbody tr") == []
    assert page.text("people").startswith("no people, ")


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_pointer_tells_joints(page, real, mirrored):
    from selenium.webdriver import ActionChains

    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    one = real.post("/pose", files={"image": PEOPLE.read_bytes()}).json()["people"][0]
    joint = max(range(17), key=lambda i: one["keypoints"][i][2])
    x, y, score = one["keypoints"][joint]
    stage = page.of("stage").size
    scale = min(stage["width"] / 640, stage["height"] / 480)
    if mirrored:
        page.of("mirror").click()
        x = 640 - x
    offset = round(scale * (x - 320)), round(scale * (y - 240))
    ActionChains(page.browser).move_to_element_with_offset(page.of("stage"), *offset).perform()
    wait_until(lambda: page.of("tip").is_displayed())
    assert f"{score:.2f} · person 1, {one['score']:.2f}" in page.text("tip")


def test_keyboard_alone(page):
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
    assert page.of("joints").is_displayed()
    assert page.text("joints").startswith("Person 1\nnose\n")
    focus = page.browser.switch_to.active_element
    assert focus.get_attribute("aria-pressed") == "true"


def test_a_dropped_picture(page):
    point = {"x": 300, "y": 300}
    data = {"items": [], "files": [str(PEOPLE)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, **point, "data": data}
        page.browser.execute_cdp_cmd("Input.dispatchDragEvent", event)
    wait_until(lambda: page.drawn() > 1000)
    assert "dropping" not in page.of("stage").get_attribute("class")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("note.txt", b"hello", "This is no picture that the service can read: "),
        ("empty.png", b"", "This picture cannot be used: the picture is empty"),
        ("cut.jpg", PEOPLE.read_bytes()[:9000], "This picture cannot be used: the picture is dam"),
        ("large.bmp", b"BM" + bytes(1_000_000), "This picture is too large: the upload has 100000"),
    ],
)
def test_errors_in_words(page, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    page.choose(tmp_path / name)
    wait_until(lambda: page.of("error").is_displayed())
    assert page.text("error").startswith(words)
    assert page.of("error").get_attribute("role") == "alert"
    assert page.drawn() == 0
    page.choose(PEOPLE)
    wait_until(lambda: page.drawn() > 0)
    assert not page.of("error").is_displayed()


def test_a_picture_that_the_browser_cannot_show(page, tmp_path):
    (tmp_path / "x.tiff").write_bytes(picture(ending=".tiff"))
    page.choose(tmp_path / "x.tiff")
    wait_until(lambda: "network" in page.text("status"))
    assert page.size_said() == [64, 48]
    assert page.text("status").endswith("cannot show the picture itself.")


def test_the_last_picture_wins(browser, tmp_path):
    (tmp_path / "last.png").write_bytes(picture(300, 200))
    network = Network()
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
        assert page.size_said() == page.size_shown() == [300, 200]
        assert len(network.sizes) == 3


def test_the_camera(page):
    page.of("camera").click()
    wait_until(lambda: "frames/s" in page.text("status"))
    assert page.of("camera").get_attribute("aria-pressed") == "true"
    assert page.of("mirror").is_selected()
    wait_until(lambda: len(page.posts()) >= 5)
    assert page.size_shown() == [640, 360]
    page.of("camera").click()
    assert page.text("status") == "The camera is off."
    time.sleep(0.3)  # the request that was given up is listed late
    posts = page.posts()
    starts, ends = zip(*posts, strict=True)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False)), posts
    time.sleep(0.3)
    assert len(page.posts()) == len(posts)
    assert page.complaints() == []


def test_the_camera_waits_when_the_service_is_busy(browser):
    network = Network()
    with served(network, max_queue=1) as client:
        page = Page(browser, client)
        network.open.clear()
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(post, client, picture())
            wait_until(lambda: client.app.state.service.queue == 1)
            page.of("camera").click()
            wait_until(lambda: page.text("error").startswith("The service is busy: all 1 places"))
            network.open.set()
            assert other.result().status_code == 200
            wait_until(lambda: "frames/s" in page.text("status"))
        assert not page.of("error").is_displayed()
        page.of("camera").click()


def test_a_service_that_went_away(browser):
    with served(Network()) as client:
        page = Page(browser, client)
    page.choose(PEOPLE)
    wait_until(lambda: page.of("error").is_displayed())
    assert page.text("error") == "The service does not answer. Is it still running?"
