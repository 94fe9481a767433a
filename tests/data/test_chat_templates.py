"""Tests that chat templates of checkpoints are rendered as by transformers, with limits of time, memory and length."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from unigrpo import CheckpointError, DataError
from unigrpo.config import DataConfig
from unigrpo.data import chat
from unigrpo.data.chat import chat_text, render
from unigrpo.data.chat_templates.process import TemplateProcess
from unigrpo.data.chat_templates.program import MAX_LENGTH
from unigrpo.data.prompting import prompt_lengths
from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt

ROW = {"role": "user", "content": " 2 <b> ü\u2028\U0001f600 "}
TEMPLATES = (
    "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2, ensure_ascii=true) }}",
    "{%- for m in messages %}\n  {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m.content | trim }}\n{% endfor %}",
    "{{ bos_token }}{% generation %}{% set a = 'in' %}{{ a }}{{ messages[0].role }}{% endgeneration %}{{ a }}\n",
    "{% if tools is none and not documents and add_generation_prompt %}{{ eos_token }}{% endif %}{{ nope }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{{ strftime_now('%d %B %Y')[-4:] > '2000' }}{{ messages | map(attribute='content') | join('~') }}",
)


@pytest.fixture
def tokenizer(tiny_model_folder):
    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture
def process(monkeypatch):
    """Returns a process with one second of CPU time."""
    monkeypatch.setattr("unigrpo.data.chat_templates.process.SECONDS", 1.0)
    process = TemplateProcess()
    monkeypatch.setattr(chat, "TEMPLATE_PROCESS", process)
    yield process
    process.close()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_template_gives_the_same_text_as_in_transformers(tokenizer, template, add_generation_prompt):
    messages = [ROW, {"role": "assistant", "content": "5\n"}]
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert render(tokenizer, messages, add_generation_prompt=add_generation_prompt) == expected


def test_one_of_several_templates_is_the_default(tokenizer):
    tokenizer.chat_template = {"tool_use": "b", "default": "a"}
    assert chat_text("x", tokenizer, "chat") == "a"
    tokenizer.chat_template = {"tool_use": "b"}
    with pytest.raises(DataError, match=r"chat template fails on a prompt \(This model has multiple chat templates"):
        chat_text("x", tokenizer, "chat")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content * 1000000000 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'a'.ljust(100000000000) }}",
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    ],
)
def test_a_template_that_takes_all_memory_is_stopped(tokenizer, process, template):
    tokenizer.chat_template = template
    with pytest.raises(
        CheckpointError, match=r"\.(jinja|json): the chat template was stopped: it takes .* MiB of memory; repair it"
    ):
        chat_text("a", tokenizer, "chat")
    assert process.render("{{ messages[0].content }}", [ROW], {}) == ROW["content"], "the process still answers"


@pytest.mark.parametrize(
    "template",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '(' * 3000 }}{{ " + "(" * 3000 + " }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ '\\ud83d' }}",
    ],
)
def test_a_template_that_fails_is_named_with_its_file(tokenizer, process, template):
    tokenizer.chat_template = template
    with pytest.raises(
        DataError, match=r"\.(jinja|json): the chat template fails on a prompt \(\w+.*\); repair it, or"
    ):
        chat_text("a", tokenizer, "chat")


def test_the_length_of_a_result_is_bounded_by_that_of_the_messages(process):
    least, factor = MAX_LENGTH
    message = [{"role": "user", "content": "abc"}]
    most = least + 3 * factor
    assert len(process.render(f"{{{{ 'x' * {most} }}}}", message, {})) == most
    with pytest.raises(CheckpointError, match=rf"^the result has {most + 1} characters, expected at most {most}"):
        process.render(f"{{{{ 'x' * {most + 1} }}}}", message, {})


def test_a_template_that_does_not_end_is_stopped_for_all_prompts(tokenizer, process, tiny_model_folder):
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abcd") + "{% endfor %}" * 4
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
    tokenizer.chat_template = "{{ 1 }}" + loops
    prompts = [Prompt(id=f"a:{number}", text="2") for number in range(1000)]
    with pytest.raises(
        CheckpointError,
        match=r"the chat template was stopped: it takes more than 1 s of processor time; repair it, or set",
    ):
        prompt_lengths(prompts, tokenizer, vocabulary, DataConfig(), torch.zeros(4, dtype=torch.long))
    tokenizer.chat_template = "ok"
    assert chat_text("a", tokenizer, "chat") == "ok"


def test_a_killed_process_is_replaced_and_an_interrupted_wait_leaves_no_answer(process, monkeypatch):
    assert process.render("1", [], {}) == "1"
    first = process._process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert process.render("2", [], {}) == "2"

    def stopped(request):
        process._process.stdin.write(request)
        process._process.stdin.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process, "_answer", stopped)
        with pytest.raises(KeyboardInterrupt):
            process.render("3", [], {})
    assert process.render("4", [], {}) == "4"


def test_the_process_gets_no_variable_that_may_be_secret(process, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "RAY_AUTH_TOKEN_PATH", "MY_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    process.render("1", [], {})
    environment = Path(f"/proc/{process._process.pid}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"TZ=Asia/Tokyo" in environment


def test_threads_get_their_own_answers(process):
    found: dict[int, str] = {}

    def ask(number):
        for _ in range(20):
            found[number] = process.render(str(number), [], {})
            assert found[number] == str(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(4)}
