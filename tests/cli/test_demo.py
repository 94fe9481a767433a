"""Tests the demo: the steps of every task, its errors, and the page in a browser."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from unigrpo.cli import demo_page
from unigrpo.cli.animations import GREY
from unigrpo.cli.demo_guard import MAX_UPLOAD_BYTES, RequestGuard
from unigrpo.cli.demo_page import Demo, build_page
from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.config.generate import DemoConfig
from unigrpo.records import Prompt, Trajectory


@pytest.fixture(scope="module")
def config(tiny_unified_folder: Path) -> DemoConfig:
    return DemoConfig(
        model=str(tiny_unified_folder),
        resolution=16,
        text=TextSamplingConfig(max_new_tokens=8, num_denoising_steps=4, block_length=8, stop_at_end_of_text=False),
        image=ImageSamplingConfig(num_denoising_steps=3, guidance_scale=0.0),
    )


@pytest.fixture(scope="module")
def loaded(config: DemoConfig) -> Demo:
    return Demo(config)


@pytest.fixture
def red_image(tmp_path: Path) -> str:
    Image.new("RGB", (20, 16), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


def num_masked(words: demo_page.Words) -> int:
    return sum(colour == "masked" for _, colour in words)


@pytest.mark.parametrize("task", ["text", "mmu"])
def test_the_masked_words_of_an_answer_become_fewer_until_none_is_left(loaded, red_image, task):
    shown = loaded.run(task, "3+4=", red_image if task == "mmu" else None, 4, 1.0, 0.0, 1)
    counts = [num_masked(one.words) for one in shown]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(shown[0].words) > 0
    assert counts[-1] == 0
    assert all(one.image is None for one in shown)


def test_an_image_has_fewer_masked_codes_in_each_step(loaded):
    shown = loaded.run("t2i", "3+4", None, 3, 1.0, 1.0, 1)
    greys = [int((np.asarray(one.image) == GREY).all(axis=-1).sum()) for one in shown]
    assert greys[0] == 256 * 256
    assert greys == sorted(greys, reverse=True)
    assert greys[-1] < greys[0] / 2
    assert len(shown) == 1 + 3


def test_thoughts_come_before_the_image(loaded):
    shown = loaded.run("r2i", "3+4", None, 3, 1.0, 0.0, 1)
    covered = shown[0].image
    thinking = [one for one in shown if one.image == covered]
    assert num_masked(thinking[0].thoughts) > 0
    assert num_masked(thinking[-1].thoughts) == 0
    assert all(one.words == [] for one in shown)
    assert len(shown) > len(thinking) > 1


def test_the_same_seed_generates_the_same_image(loaded):
    first, again, other = (loaded.run("t2i", "3", None, 3, 1.0, 0.0, seed)[-1].image for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_a_batch_has_the_samples_of_the_following_seeds_in_a_grid(loaded):
    one, two, three = (loaded.run("t2i", "3", None, 3, 1.0, 1.0, seed)[-1].image for seed in (5, 6, 7))
    steps = loaded.run("t2i", "3", None, 3, 1.0, 1.0, 5, num_samples=3)
    grid = np.asarray(steps[-1].image)
    assert grid.shape == (512, 512, 3)
    for image, (row, column) in zip((one, two, three), ((0, 0), (0, 256), (256, 0)), strict=True):
        assert np.array_equal(grid[row : row + 256, column : column + 256], np.asarray(image))
    assert (grid[256:, 256:] == 255).all()
    assert len(steps) == 1 + 3


def test_the_texts_of_a_batch_are_numbered_lines(loaded):
    one, two = (loaded.run("text", "3", None, 4, 1.0, 0.0, seed)[-1] for seed in (5, 6))
    both = loaded.run("text", "3", None, 4, 1.0, 0.0, 5, num_samples=2)[-1]
    assert both.words == [("1: ", None), *one.words, ("\n2: ", None), *two.words]
    assert both.thoughts == []


def test_a_threshold_fixes_all_tokens_that_reach_it_in_one_step(loaded):
    steps, fast = (loaded.run("text", "3", None, 4, 1.0, 0.0, 1, threshold=limit) for limit in (0.0, 1e-9))
    assert [num_masked(one.words) > 0 for one in fast] == [True, False, False]
    assert len(steps) == 1 + 4 + 1


def test_thoughts_are_separated_from_the_answer_at_every_step():
    tokens = ["<think>", "1", "</", "think>", "2", "<eot>"]
    tokenizer = SimpleNamespace(batch_decode=lambda ids: [tokens[i] for i in ids[:, 0]], all_special_tokens=["<eot>"])
    sample = Mock(
        spec=Trajectory,
        scored_mask=torch.ones(6).bool(),
        text_mask=torch.ones(6).bool(),
        token_ids=torch.arange(6),
        commit_step=torch.tensor([0, 1, 0, 0, 1, 0]),
    )
    demo = SimpleNamespace(_sampler=SimpleNamespace(tokenizer=tokenizer))
    before, first, second, end = Demo._words(demo, sample)  # type: ignore[arg-type]
    assert [word for word, _ in before[0]] == ["_"] * 4
    assert first == ([("<think>", "new"), ("_", "masked"), ("</", "new"), ("think>", "new")], [("_", "masked")])
    assert second[1] == [("2", "new")]
    assert ["".join(word for word, _ in part) for part in end] == ["<think>1</think>", "2"]


def test_the_page_shows_two_checkpoints_with_the_same_seed_beside_each_other(loaded, monkeypatch):
    monkeypatch.setattr(demo_page, "SECONDS_PER_STEP", 0)
    examples = [Prompt(id="a", text="1+1=", task="text"), Prompt(id="b", text="a circle", task="t2i")]
    page = build_page(loaded, loaded, examples)
    names = {getattr(block, "elem_id", "") for block in page.blocks.values()}
    assert {"text-words", "text-words-2", "t2i-image", "t2i-image-2", "text-play"} <= names
    offered = [block.samples for block in page.blocks.values() if block.get_block_name() == "dataset"]
    assert offered == [[["1+1="]], [["a circle"]]]
    generate, play = (next(one.fn for one in page.fns.values() if one.name == name) for name in ("generate", "play"))
    values = (None, "3+4", 4, 1.0, 0.0, 0.0, 7, False, 1)
    steps = list(generate(*values))
    expected = loaded.run("text", "3+4", None, 4, 1.0, 0.0, 7)
    assert [(step[1], step[4], step[-1]) for step in steps] == [(one.words, one.words, 7) for one in expected]
    assert [step[:6] for step in play(steps[-1][-2])] == [step[:6] for step in steps]
    fresh = [next(iter(generate(*values[:7], True, 1)))[-1] for _ in range(2)]
    assert fresh[0] != fresh[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text", " ", None, 4, 1.0, 0.0, 0), "The text is empty"),
        (("mmu", "3", None, 4, 1.0, 0.0, 0), "There is no image"),
        (("mmu", "3", "nowhere.png", 4, 1.0, 0.0, 0), r"nowhere\.png: no image could be read"),
        (("text", "3", None, 0, 1.0, 0.0, 0), "num_denoising_steps is 0"),
        (("text", "3", None, 10**30, 1.0, 0.0, 0), "a response has only 8 tokens"),
        (("t2i", "3", None, 10**30, 1.0, 0.0, 0), "an image has only 16 codes"),
        (("text", "3", None, 4, 1.0, 0.0, 2**70), "The seed is 1180591620717411303424; it must lie in"),
        (("text", "3" * 5000, None, 4, 1.0, 0.0, 0), "the model was made for 4096; write a shorter text"),
    ],
)
def test_missing_input_is_named(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        loaded.run(*arguments)


def test_the_page_refuses_more_steps_than_tokens_or_codes(loaded):
    numbers = [block for block in build_page(loaded).blocks.values() if getattr(block, "label", "") == "Steps"]
    assert [(block.minimum, block.maximum) for block in numbers] == [(1, 8), (1, 8), (1, 16), (1, 16)]


def test_a_checkpoint_without_image_tokenizer_says_which_tabs_do_not_work_and_why(config, tmp_path):
    shutil.copytree(config.model, tmp_path / "model", ignore=shutil.ignore_patterns("image_tokenizer"))
    textual = Demo(replace(config, model=str(tmp_path / "model")))
    assert textual.reason_unavailable("text") == ""
    assert "--image_tokenizer" in textual.reason_unavailable("t2i")
    with pytest.raises(ValueError, match="No image tokenizer"):
        textual.run("t2i", "3", None, 3, 1.0, 0.0, 0)


def test_a_task_of_one_of_two_checkpoints_is_shown_for_it_and_the_other_is_named_with_the_reason(
    loaded, config, tmp_path
):
    shutil.copytree(config.model, tmp_path / "model", ignore=shutil.ignore_patterns("image_tokenizer"))
    textual = Demo(replace(config, model=str(tmp_path / "model")))
    for demos, number in (((loaded, textual), 1), ((textual, loaded), 1), ((textual, textual), 0)):
        blocks = list(build_page(*demos).blocks.values())
        names = {getattr(block, "elem_id", "") for block in blocks}
        assert {"text-words", "text-words-2"} <= names
        assert len({"t2i-image", "t2i-image-2"} & names) == number
        texts = [block.value for block in blocks if block.get_block_name() == "markdown"]
        refused = [text for text in texts if text.startswith("*Not available.*")]
        assert len(refused) == 3, "one message for each task with images"
        assert all(f"`{tmp_path / 'model'}`: No image tokenizer" in text for text in refused)
        assert not any(config.model in text for text in refused)


def test_the_page_listens_on_loopback_and_answers_only_its_own_requests(loaded):
    page = build_page(loaded)
    _, address, shared = demo_page.launch(page, loaded.config, prevent_thread_lock=True)
    try:
        assert address.startswith("http://127.0.0.1:")
        assert not shared
        host = address.split("/")[2]
        assert httpx.get(address).status_code == 200
        assert httpx.get(address, headers={"Origin": f"http://{host}"}).status_code == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            answer = httpx.get(address, headers=headers)
            assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)
        upload = f"{address}gradio_api/upload"
        assert httpx.post(upload, files={"files": b"a" * 1000}).status_code == 200
        assert httpx.post(upload, files={"files": b"a" * (MAX_UPLOAD_BYTES + 1)}).status_code == 413
        assert httpx.post(upload, files={"files": b"a" * (2 * MAX_UPLOAD_BYTES)}).status_code == 413
    finally:
        page.close()


@pytest.mark.parametrize(
    ("host", "origin", "is_passed"),
    [
        ("127.0.0.1:7860", "", True),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", True),
        ("LOCALHOST:7860", "http://localhost:7860", True),
        ("[::1]:7860", "http://[::1]:7860", True),
        ("10.1.2.3:80", "", True),
        (socket.gethostname(), "", True),
        ("gpu.example", "https://gpu.example", True),
        ("127.0.0.1:7860", "https://gpu.example", True),
        ("127.0.0.1:7860", "http://127.0.0.1:3000", False),
        ("evil.example", "http://evil.example", False),
        ("127.0.0.1.evil.example", "", False),
        ("localhost.evil.example:7860", "", False),
        ("127.0.0.1:7860", "http://evil.example", False),
        ("127.0.0.1:7860", "null", False),
        ("127.0.0.1:7860", "http://[", False),
        ("127.0.0.1:7860", "http://gpu.example.evil.example", False),
        ("", "", False),
        ("[", "", False),
    ],
)
def test_the_demo_accepts_requests_for_its_address_and_its_name(host, origin, is_passed):
    guard = RequestGuard(None, allowed_hosts=("gpu.example",))
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    assert (guard.refusal(headers) == "") == is_passed


def test_a_body_without_a_length_is_cut_off_at_the_limit():
    sent, parts = [], iter([b"a" * 6, b"b" * 6])

    async def app(scope, receive, send):
        sent.extend([await receive(), await receive()])

    async def receive():
        return {"type": "http.request", "body": next(parts), "more_body": True}

    guard = RequestGuard(app, max_bytes=10)
    asyncio.run(guard({"type": "http", "headers": [(b"host", b"localhost")]}, receive, None))
    assert [message["type"] for message in sent] == ["http.request", "http.disconnect"]


def test_a_length_of_thousands_of_digits_is_too_large():
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"9" * 5000)]
    asyncio.run(RequestGuard(None)({"type": "http", "headers": headers}, None, send))
    assert sent[0]["status"] == 413


def test_the_address_is_in_a_log_file_while_the_page_is_served(config, monkeypatch):
    log = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(log))
    monkeypatch.setattr(demo_page, "Demo", lambda _: None)
    monkeypatch.setattr(demo_page, "build_page", lambda *_: None)
    monkeypatch.setattr(demo_page, "launch", lambda *_, **__: log.seek(0))
    demo_page.serve(config)
    assert log.read() == f"open http://127.0.0.1:{config.port} (Ctrl-C ends it)\n".encode()


@pytest.mark.browser
def test_every_tab_works_in_a_browser(loaded, red_image):
    """Needs the Python package playwright, and Chromium on PATH."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium on PATH, for example apt-get install chromium")
    places = {"text": "#text-words", "mmu": "#mmu-words", "r2i": "#r2i-thoughts"}
    page = build_page(loaded)
    _, address, _ = demo_page.launch(page, loaded.config, prevent_thread_lock=True)
    try:
        with playwright.sync_playwright() as tools:
            browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            phone = browser.new_page(viewport={"width": 390, "height": 844})
            phone.goto(address, timeout=60_000)
            tabs = phone.get_by_role("tab")
            playwright.expect(tabs).to_have_text([name for name, _, _ in demo_page.TASKS.values()], timeout=30_000)
            for number in range(len(demo_page.TASKS)):
                playwright.expect(tabs.nth(number)).to_be_in_viewport()
            assert phone.evaluate("document.documentElement.scrollWidth") == 390, "the page is wider than the phone"
            phone.close()
            tab = browser.new_page()
            tab.goto(address, timeout=60_000)
            for task, (name, _, _) in demo_page.TASKS.items():
                tab.get_by_role("tab", name=name, exact=True).click()
                if task == "mmu":
                    tab.locator("input[type=file]").first.set_input_files(red_image)
                if task == "text":  # only once, because the message stays visible
                    tab.locator(f"#{task}-run").click()
                    tab.get_by_text("The text is empty").first.wait_for(timeout=20_000)
                tab.locator(f"#{task}-prompt textarea").fill("3+4")
                tab.locator(f"#{task}-run").click()
                if task == "t2i":
                    tab.locator(f"#{task}-image img").first.wait_for(timeout=30_000)
                else:
                    tab.locator(places[task]).get_by_text(re.compile(r"\S")).first.wait_for(timeout=30_000)
                slider = tab.locator(f"#{task}-step input[type=range]")
                playwright.expect(slider).not_to_have_attribute("max", "1", timeout=30_000)
                playwright.expect(slider).to_have_value(slider.get_attribute("max") or "", timeout=30_000)
                shown = tab.locator(f"#{task}-image img" if task == "t2i" else places[task])
                last = _content(shown)
                for key in ["Home", "End"] * 10:  # repeated, because the last step may be shown in between
                    slider.press(key)
                    tab.wait_for_timeout(500)
                    if key == "Home" and _content(shown) != last:
                        break
                assert _content(shown) != last, "the first step looks like the last"
                slider.press("Home")
                playwright.expect(slider).not_to_have_value(slider.get_attribute("max") or "")
                tab.locator(f"#{task}-play").click()
                playwright.expect(slider).to_have_value(slider.get_attribute("max") or "", timeout=30_000)
                assert _content(shown) == last, "Play does not end with the last step"
            browser.close()
    finally:
        page.close()


def _content(shown: Any) -> str:
    """Returns the content of an element of the page: the address of its image, or its text."""
    return str(shown.first.get_attribute("src") or shown.first.inner_text())
