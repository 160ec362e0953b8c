"""The documentation as a reader meets it: it builds, and works in a browser, offline."""

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow

# Put first into every page: what goes wrong there is told to the page that checks.
WATCH = """<script>
if (parent !== window) {
  const tell = what => parent.wrong.push(location.pathname + ": " + what)
  const missing = element => "cannot load " + (element.src || element.href)
  addEventListener("error", e => tell(e.message || missing(e.target)), true)
  addEventListener("unhandledrejection", e => tell(e.reason))
  addEventListener("securitypolicyviolation", e => tell("fetches " + e.blockedURI))
  console.error = (...what) => tell(what.join(" "))
}
</script>"""

# Nothing from other sites may be fetched; scripts and styles inside a page are its own.
OWN = "default-src 'self' 'unsafe-inline' data: blob:"

# Opens the pages one after the other in a frame, and reports.
CHECK = """<!doctype html><body><script>
const wrong = [], found = {}
const sleep = ms => new Promise(done => setTimeout(done, ms))
async function until(what, test) {
  for (let i = 0; i < 300; i++) { const value = test(); if (value) return value; await sleep(100) }
  wrong.push("waited in vain for " + what)
}
async function open(address, width) {
  document.querySelector("iframe")?.remove()
  const frame = document.createElement("iframe")
  frame.style = `width:${width}px;height:800px`
  frame.src = address
  const loaded = new Promise(done => frame.onload = done)
  document.body.append(frame)
  await loaded
  return frame.contentDocument
}
async function run() {
  for (const address of PAGES) {
    const page = await open(address, 375)
    await sleep(50)
    if (!page.querySelector("article h1")) wrong.push(address + ": no heading")
    for (const image of page.images)
      if (!image.complete || !image.naturalWidth) wrong.push(address + ": no " + image.src)
    if (page.documentElement.scrollWidth > 375) wrong.push(address + ": wider than the screen")
  }
  let page = await open("/zoo/", 1280)
  const rows = () => [...page.querySelectorAll("article tbody tr")]
  const parameters = () => rows().map(row => Number(row.cells[3].innerText))
  const heads = () => page.querySelectorAll("th[role=columnheader]")
  const head = await until("tables that sort", () => heads()[3])
  found.unsorted = parameters()
  head?.click()
  found.once = parameters()
  head?.click()
  found.twice = parameters()
  page = await open("/?q=aspp_rates", 1280)
  await until("what the search finds", () => page.querySelector(".md-search-result__link"))
  found.search = [...page.querySelectorAll(".md-search-result__link")].map(link => link.pathname)
}
run().catch(error => wrong.push(String(error))).then(() =>
  fetch("/report", { method: "POST", body: JSON.stringify({ wrong, found }) }))
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Serves the site and the page that checks it, and takes that one's report."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            path /= "index.html"
        if self.path == "/check":
            pages = sorted(Path(self.directory).rglob("index.html"))
            names = [f"/{page.parent.relative_to(self.directory).as_posix()}/" for page in pages]
            self.send_page(f"<script>const PAGES = {json.dumps(names)}</script>{CHECK}")
        elif path.suffix == ".html" and path.is_file():
            self.send_page(path.read_text().replace("<head>", f"<head>{WATCH}", 1))
        else:
            super().do_GET()

    def send_page(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", OWN)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.reported.set()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def report(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the browser saw."""
    if BROWSER is None:
        pytest.skip("there is no chromium and no google-chrome here")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    server.reported = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    address = f"http://127.0.0.1:{server.server_port}/check"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen(
        [BROWSER, *options, profile, "--remote-debugging-port=0", address], **quiet
    )
    try:
        assert server.reported.wait(300), "the browser did not get through the pages"
    finally:
        browser.terminate()
        browser.wait(30)
        server.shutdown()
        server.server_close()
    return server.report


def test_pages_render_without_an_error_on_a_narrow_screen_too(report: dict) -> None:
    """Nor is anything fetched from another site."""
    assert report["wrong"] == []


def test_search_finds_an_option(report: dict) -> None:
    assert "/parts/" in report["found"]["search"]


def test_the_zoo_sorts_by_number(report: dict) -> None:
    found = report["found"]
    up = sorted(found["unsorted"])
    assert found["unsorted"] not in (up, up[::-1])
    assert sorted([found["once"], found["twice"]]) == [up, up[::-1]]


@pytest.mark.parametrize("folder", ["", "api", "reports"])
def test_every_page_is_in_the_navigation(folder: str) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs" / folder).glob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation, page.name
