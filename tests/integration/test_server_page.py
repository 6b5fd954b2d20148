"""The page in a browser: a picture, a question, and an answer that streams."""

from __future__ import annotations

import base64
import shutil

import pytest

from tests.support.served_questions import questions
from tests.support.server_process import ServerProcess

playwright = pytest.importorskip("playwright.sync_api", reason="`make integration` installs it")

pytestmark = pytest.mark.integration

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 120_000
"""Most milliseconds for anything to appear."""

PASTE = """content => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
}"""
PIXELS = """() => {
    const canvas = document.getElementById("picture");
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, data.reduce((sum, value) => (sum * 31 + value) % 1e9, 7)];
}"""
HELD = """() => {
    const ask = window.fetch;
    window.fetch = async (address, request) => {
        const reader = (await ask(address, request)).body.getReader();
        const pull = async (stream) => {
            const { done, value } = await reader.read();
            if (!done) return stream.enqueue(value);
            const stop = request.signal;
            await new Promise((_, end) => stop.addEventListener("abort", () => end(stop.reason)));
        };
        return new Response(new ReadableStream({ pull }));
    };
}"""
"""Keeps an answer from ending, however fast the server is, until it is stopped."""


@pytest.fixture(scope="module")
def question():
    """A description by the model with a budget of 1/9."""
    return next(q for q in questions(12, most=60) if q.body["twigkit"] == {"budget": 1 / 9}
                and "temperature" not in q.body)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs the browser chromium, and there is none")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server():
    with ServerProcess("--api-key", "a secret") as server:
        yield server


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.set_default_timeout(WAIT)
    page.goto(server.url)
    page.problems = problems
    yield page
    page.close()


def parts(question):
    picture, text = question.body["messages"][0]["content"]
    return picture["image_url"]["url"].partition(",")[2], text["text"]


def ask(page, question):
    page.fill("#question", parts(question)[1])
    page.fill("#tokens", str(question.body["max_tokens"]))
    page.select_option("#budget", "1/9")
    page.fill("#key", "a secret")
    page.click("#ask")
    playwright.expect(page.locator("#speed")).to_contain_text("prefill", timeout=WAIT)


@pytest.mark.parametrize("way", ["upload", "paste"])
def test_a_picture_is_asked_about(page, question, way, tmp_path):
    content, _ = parts(question)
    empty = page.evaluate(PIXELS)
    if way == "paste":
        page.evaluate(PASTE, content)
    else:
        (tmp_path / "a.png").write_bytes(base64.b64decode(content))
        page.set_input_files("#file", tmp_path / "a.png")
    playwright.expect(page.locator("#clear")).to_be_enabled(timeout=WAIT)
    shown = page.evaluate(PIXELS)
    assert shown != empty
    ask(page, question)
    assert page.text_content("#answer") == question.answer
    spans = page.locator("#answer span")
    assert spans.count() == question.tokens
    assert 0 < page.locator("#answer span.accepted").count() < spans.count()
    assert "of 144 visual tokens kept" in page.text_content("#kept")
    assert "tokens/s" in page.text_content("#speed")
    marked = page.evaluate(PIXELS)
    assert marked != shown
    page.uncheck("#overlay")
    assert page.evaluate(PIXELS) == shown
    assert page.problems == []


def test_a_problem_is_shown_and_passes(page, question):
    page.fill("#question", "what is in the picture ?")
    page.click("#ask")
    playwright.expect(page.locator("#error")).to_contain_text("API key", timeout=WAIT)
    assert page.is_enabled("#ask")


def test_an_answer_can_be_stopped(page, question):
    page.evaluate(HELD)
    page.fill("#question", "what is in the picture ?")
    page.fill("#key", "a secret")
    assert not page.is_enabled("#stop")
    page.click("#ask")
    page.locator("#answer span").first.wait_for()
    assert not page.is_enabled("#ask")
    page.click("#stop")
    playwright.expect(page.locator("#ask")).to_be_enabled(timeout=WAIT)
    assert not page.is_enabled("#stop")
    assert page.text_content("#error") == ""
    assert page.text_content("#answer") != ""


def test_it_fits_a_phone(browser, server):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(server.url)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()
