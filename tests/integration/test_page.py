"""The page in Chromium, through the real Envoy, with the real services.

A piece of half a minute plays in a page of its own while the next tests ask other things of the same stack.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Error, Page, Route, expect, sync_playwright

import antiphon
from services.stack.stack import Stack
from tests.conftest import require
from tests.integration import typescript, web

PATIENCE_MS = 60_000
DESKTOP = (1280, 900)
PHONE = (390, 844)
LONG_SECONDS = 30
PLAYER = "globalThis.antiphon.play.player"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        with playwright.chromium.launch(executable_path=require("chromium"), args=arguments) as running:
            yield running


def opened(browser: Browser, stack: Stack, size: tuple[int, int] = DESKTOP, fragment: str = "", **options: str) -> Page:
    """A page that has heard from the server. What its scripts complain about is noted."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.complaints = complaints  # type: ignore[attr-defined]
    page.goto(f"http://{stack.address}/{fragment}")
    page.wait_for_selector("body[data-ready]")
    return page


def complaints(page: Page) -> list[str]:
    found: list[str] = page.complaints  # type: ignore[attr-defined]
    return found


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    page = opened(browser, stack)
    yield page
    page.close()
    assert complaints(page) == []


@pytest.fixture(scope="module")
def long_piece(browser: Browser, stack: Stack) -> Page:
    """A page in which a piece of half a minute was begun."""
    page = opened(browser, stack)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.asked = asked  # type: ignore[attr-defined]
    settle(page, "length", LONG_SECONDS)
    page.locator("#play").click()
    page.wait_for_selector("body[data-state=playing]")
    return page


def settle(page: Page, name: str, value: float) -> None:
    """Moves a slider."""
    page.locator(f"#{name}").fill(str(value))


def heard_seconds(page: Page) -> float:
    """Where the piece is, as the page tells."""
    minutes, seconds = page.locator("#position").inner_text().split(":")
    return int(minutes) * 60 + float(seconds)


def until_heard(page: Page, seconds: float) -> None:
    until(page, lambda: heard_seconds(page) >= seconds)


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Waits. Not by the page's own scripts: its policy lets none in that the test would bring."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def tone(path: Path, seconds: float = 3.0) -> Path:
    """A file with a melody of plain tones."""
    rate = 32_000
    time = np.arange(round(seconds * rate)) / rate
    pitch = 220 * 2 ** (np.floor(time * 2) / 12)
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate), rate)
    return path


def test_the_page_comes_from_envoy_and_may_ask_nobody_else(stack: Stack) -> None:
    reply = web.call(stack, "GET", "/")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', reply.body.decode()):
        assert web.call(stack, "GET", path).status == 200
    assert web.call(stack, "GET", "/worklet.js").headers["content-type"].startswith("text/javascript")


def test_the_first_sound_is_heard_and_the_clock_runs(long_piece: Page) -> None:
    page = long_piece
    until(page, lambda: bool(page.evaluate(f"{PLAYER}.level()") > 0.001))
    clock = page.evaluate(f"{PLAYER}.context.currentTime")
    assert clock > 0
    assert page.evaluate(f"{PLAYER}.context.sampleRate") == 32_000
    until_heard(page, 1)
    assert page.evaluate(f"{PLAYER}.context.currentTime") > clock
    assert re.fullmatch(r"\d+\.\d\d s", page.locator("#first-sound").inner_text())


def test_other_words_bend_what_plays_and_pause_holds_it(page: Page) -> None:
    page.locator("#endless").check()
    page.locator("#play").click()
    until_heard(page, 0.5)
    page.locator("#prompt").fill("dark slow strings, minor chords")
    with page.expect_response(lambda reply: "ControlGeneration" in reply.url) as control:
        page.locator("#prompt").press("Enter")
    assert control.value.ok
    expect(page.locator("#status")).to_contain_text("turns to")
    # Space belongs to the prompt while that has the focus.
    page.locator("#pause").click()
    until(page, lambda: bool(page.evaluate(f"{PLAYER}.context.state") == "suspended"))
    clock, held = page.evaluate(f"{PLAYER}.context.currentTime"), heard_seconds(page)
    page.wait_for_timeout(700)
    assert page.evaluate(f"{PLAYER}.context.currentTime") == clock
    assert heard_seconds(page) == pytest.approx(held, abs=0.2)
    page.locator("#pause").click()
    until_heard(page, held + 3.5)
    page.keyboard.press("Escape")
    take = page.locator("#takes li").first
    expect(take).to_contain_text("changed on the way")
    until(page, lambda: bool(page.evaluate(f"{PLAYER}.level()") == 0))


def test_a_link_repeats_a_piece_even_over_a_broken_connection(browser: Browser, stack: Stack) -> None:
    """The first answer is cut off after a while, as by a network that fails; the piece is the one of its seed."""
    broken: list[Route] = []

    def cut(route: Route) -> None:
        if broken:
            route.continue_()
            return
        broken.append(route)
        try:
            reply = route.fetch(timeout=PATIENCE_MS)
        except Error:
            route.abort()
            return
        route.fulfill(response=reply, body=reply.body()[:60_000])

    page = opened(browser, stack, fragment="#prompt=warm+organ+chords&seed=42&length=2&temperature=0.8&top-k=50")
    assert page.locator("#prompt").input_value() == "warm organ chords"
    page.route("**/OpenGeneration", cut)
    page.locator("#play").click()
    take = page.locator("#takes li").first
    expect(take).to_contain_text("seed 42")
    assert broken
    with page.expect_download() as download:
        take.get_by_role("button", name="Download").click()
    samples, rate = soundfile.read(download.value.path())
    page.close()
    with antiphon.Client(stack.address) as client:
        piece = client.generate("warm organ chords", duration=2, seed=42, temperature=0.8, top_k=50, cfg_coef=3.0)
    assert rate == piece.sample_rate_hz
    # The page gets floats and writes 16 bits, with a limiter of its own near full scale.
    quiet = np.abs(piece.samples[:, 0]) < 0.85
    np.testing.assert_allclose(samples[quiet], piece.samples[quiet, 0], atol=1e-3)
    assert quiet.mean() > 0.5


def test_ideas_fit_the_model(page: Page, stack: Stack) -> None:
    with antiphon.Client(stack.address) as client:
        models = [model for model in client.list_models() if model.service is antiphon.Service.GENERATOR]
    for model in models:
        page.locator("#model").select_option(model.name)
        chips = page.locator("#ideas button")
        assert ("rain" in " ".join(chips.all_inner_texts())) == (model.kind is antiphon.ModelKind.SOUND)
        chips.last.click()
        assert page.locator("#prompt").input_value() == chips.last.inner_text()


def test_what_is_wrong_is_said(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    page = opened(browser, stack)
    page.locator("#seed").fill("seven")
    page.locator("#play").click()
    expect(page.locator("#alert")).to_contain_text("whole number")
    assert page.locator("body").get_attribute("data-state") == "idle"
    path = tmp_path / "no.wav"
    path.write_bytes(b"no audio")
    page.get_by_role("tab", name="Examine").click()
    page.locator("#analyze-file").set_input_files(path)
    expect(page.locator("#alert")).to_contain_text("audio")
    page.close()


def test_all_is_reached_by_keyboard(page: Page) -> None:
    page.locator("#tab-play").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-codec")).to_be_visible()
    page.keyboard.press("Home")
    expect(page.locator("#panel-play")).to_be_visible()
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {
        "prompt",
        "play",
        "length",
        "endless",
        "blend",
        "seed",
        "model",
        "temperature",
        "top-k",
        "guidance",
    } <= reached


def test_half_a_minute_has_no_gap(long_piece: Page, stack: Stack) -> None:
    page = long_piece
    expect(page.locator("#status")).to_contain_text("Finished")
    assert heard_seconds(page) == pytest.approx(LONG_SECONDS, abs=0.1)
    assert page.locator("#gaps").inner_text() == "0"
    take = page.locator("#takes li").first
    with page.expect_download() as download:
        take.get_by_role("button", name="Download").click()
    samples, rate = soundfile.read(download.value.path())
    assert len(samples) == LONG_SECONDS * rate
    assert np.abs(samples).max() > 0.01
    asked: list[str] = page.asked  # type: ignore[attr-defined]
    assert asked
    assert all(url.removeprefix("blob:").startswith(f"http://{stack.address}/") for url in asked)
    assert complaints(page) == []


def coded(page: Page, path: Path) -> None:
    """Drops a file on Compress, takes another bandwidth, and compares."""
    page.get_by_role("tab", name="Compress").click()
    page.locator("#codec-file").set_input_files(path)
    expect(page.locator("#status")).to_contain_text("decoded")
    expect(page.locator("#codec-kbps")).to_contain_text("kbit/s")
    first = page.locator("#codec-kbps").inner_text()
    settle(page, "codebooks", 1)
    page.locator("#codebooks").dispatch_event("change")
    expect(page.locator("#codec-kbps")).not_to_have_text(first)
    expect(page.locator("#codec-result")).to_have_attribute("aria-busy", "false")
    for name in ("original", "decoded"):
        drawn = page.evaluate(
            """(id) => {
              const canvas = document.getElementById(id);
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              return new Set(new Uint32Array(data.buffer)).size;
            }""",
            f"{name}-picture",
        )
        assert drawn > 20, f"{name}: {drawn} colours"
    page.locator("#compare").click()
    page.get_by_label("Decoded", exact=True).check()
    until(page, lambda: float(page.locator("#compare-position").input_value()) > 0.3)
    page.locator("#compare").click()


def examined(page: Page, path: Path) -> None:
    """Drops a file on Examine, and drags the threshold. A verdict comes only of weights that are trained."""
    page.get_by_role("tab", name="Examine").click()
    page.locator("#analyze-file").set_input_files(path)
    expect(page.locator("#verdict")).not_to_be_empty()
    verdict = page.locator("#verdict").get_attribute("data-verdict")
    assert verdict in ("generated", "real", "inconclusive", "none")
    assert (verdict == "none") == ("not calibrated" in page.locator("#chart-title").inner_text())
    assert page.locator("#verdict-more").inner_text()
    expect(page.locator("#evidence img").first).to_be_visible()
    assert page.evaluate("[...document.querySelectorAll('#evidence img')].every((one) => one.alt)")
    bars = page.locator("#chart rect").count()
    assert bars == page.locator("#windows tr").count() > 0
    settle(page, "threshold", 0)
    expect(page.locator("#above")).to_have_text(f"{bars} of {bars} windows at or above 0.0 %.")
    page.locator("#chart").scroll_into_view_if_needed()
    box = page.locator("#chart").bounding_box()
    assert box
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] - 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 2)
    page.mouse.up()
    assert float(page.locator("#threshold").input_value()) > 0.95


def made(page: Page, path: Path) -> None:
    """Makes a short piece."""
    page.get_by_role("tab", name="Make").click()
    settle(page, "length", 2)
    page.locator("#play").click()
    expect(page.locator("#takes li")).to_have_count(1)


@pytest.mark.parametrize("size,scheme", [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_each_part_works_and_axe_finds_nothing_serious(
    browser: Browser, stack: Stack, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    axe = (typescript.installed() / "node_modules/axe-core/axe.min.js").read_text()
    page = opened(browser, stack, size, color_scheme=scheme)
    path = tone(tmp_path / "melody.wav")
    for part in (made, coded, examined):
        part(page, path)
        # By the debugger's hand, as the page's own policy lets no other script in.
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious] == []
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{part.__name__}: {wide} px too wide"
    page.close()
    assert complaints(page) == []
