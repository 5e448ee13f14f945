"""The emulator's page in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from vertex_emulator import MODEL, Pipeline, VertexEmulator, ended, vertex_emulator

NASTY = "<img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VertexEmulator]:
    with vertex_emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of Debian's Chromium. Skips the test where there is none, and fails it where CI is set."""
    chromium = shutil.which("chromium")
    if not chromium:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # Root needs the argument.
        yield browser.new_page()
        browser.close()


def test_a_job_is_drawn_and_redrawn_while_it_runs(emulator: VertexEmulator, page: Page, tmp_path: Path) -> None:
    page.goto(emulator.url)
    go_on = tmp_path / "go on"
    wait = f"print('still waiting')\nwhile not os.path.exists({str(go_on)!r}): time.sleep(.01)\n"
    pipeline = Pipeline(tmp_path).parameter("word")
    pipeline.task("First", "done({'colour': 'red'})", {"w": "=word"}, gives={"model": MODEL})
    pipeline.task("Second", wait + "raise ValueError('no tacos')", takes={"model": "First.model"})
    pipeline.task("Third", after=("Second",))
    job = pipeline.submit("drawn", parameter_values={"word": "taco"})
    page.get_by_role("link", name="drawn").click()
    node = page.get_by_role("group", name="Tasks").get_by_role("link")
    expect(node).to_have_count(3)
    expect(node.filter(has_text="Second")).to_contain_text("running")
    expect(node.filter(has_text="Third")).to_contain_text("not started")
    expect(page.get_by_text("taco", exact=True)).to_be_visible()
    node.filter(has_text="Second").click()
    expect(page.locator("pre")).to_contain_text("still waiting")
    go_on.touch()
    assert ended(job) == "FAILED"
    expect(node.filter(has_text="Second")).to_contain_text("failed")
    expect(node.filter(has_text="Third")).to_contain_text("not triggered")
    expect(page.locator("pre")).to_contain_text("ValueError: no tacos")
    expect(page.locator(".task .error")).to_contain_text("exited with status 1")
    node.filter(has_text="First").click()
    expect(page.locator(".task")).to_contain_text("tfx.Model")
    expect(page.locator(".task")).to_contain_text("colour: red")
    page.get_by_role("link", name="Vertex AI Pipelines").click()
    expect(page.get_by_role("row").filter(has_text="drawn")).to_contain_text("failed")


def test_what_a_job_says_is_text_and_nothing_else(emulator: VertexEmulator, page: Page, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path).parameter("word")
    code = "print(parameters['w']); done({'said': parameters['w']})"
    pipeline.task(f"Nasty {NASTY}", code, {"w": "=word"}, gives={"model": MODEL})
    pipeline.spec["pipelineInfo"]["name"] = NASTY
    job = pipeline.submit("nasty", parameter_values={"word": NASTY})
    ended(job)
    page.goto(emulator.url)
    expect(page.get_by_role("row").filter(has_text="nasty")).to_contain_text(NASTY)
    page.get_by_role("link", name="nasty").click()
    page.get_by_role("group", name="Tasks").get_by_role("link").click()
    expect(page.locator(".task")).to_contain_text(NASTY)
    assert page.locator("main img").count() == 0
    assert page.title() == "Vertex AI Pipelines on this machine"


def test_the_page_says_when_the_emulator_is_gone(page: Page, tmp_path: Path) -> None:
    with vertex_emulator(tmp_path) as emulator:
        page.goto(emulator.url)
        expect(page.get_by_text("No jobs yet")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("The emulator does not answer.")
