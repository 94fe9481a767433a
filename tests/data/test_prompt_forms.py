"""Tests the forms of prompts, gold answers and images in public data sets, and the settings of a prompt file."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from transformers import AutoTokenizer

from unigrpo.config import DataConfig, PromptFileConfig
from unigrpo.data.bad_samples import BadRows
from unigrpo.data.embedded_images import images_in
from unigrpo.data.golds import gold_answer
from unigrpo.data.images import read_image
from unigrpo.data.prompt_stream import prompt_weights
from unigrpo.data.prompting import check_prompt_text, encode_prompt
from unigrpo.data.prompts import load_prompts
from unigrpo.records import Prompt


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


def one(tmp_path: Path, row: dict[str, Any], **settings: Any) -> Prompt:
    """Returns the prompt of a file with only this row."""
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (prompt,) = load_prompts((PromptFileConfig(path=str(tmp_path / "a.jsonl"), **settings),))
    return prompt


USER = {"role": "user", "content": "1+2="}
SYSTEM = {"role": "system", "content": "You think."}


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": [USER], "answer": "3"}, 1),
        ({"prompt": [SYSTEM, USER], "solution": "\\boxed{3}"}, 2),
        ({"context_messages": [USER], "label": 3}, 1),
        ({"prompt": [USER], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "3"},
          "extra_info": {"split": "train", "index": 0}}, 1),
        ({"conversations": [{"from": "human", "value": "1+2="}, {"from": "gpt", "value": "Easy. Answer: 3"}]}, 1),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "1+2="}]}], "final_answer": ["3"]}, 1),
        ({"prompt": json.dumps([SYSTEM, USER]), "answer": "3"}, 2),
        ({"message": json.dumps([USER]), "ground_truth_answer": "3"}, 1),
        ({"Problem": "1+2=", "Answer": "<answer> 3 </answer>"}, 0),
        ({"query": "1+2=", "ground_truth": 3.0}, 0),
    ],
)  # fmt: skip
def test_chats_and_columns_of_every_framework_ask_the_same(tmp_path, row, turns):
    prompt = one(tmp_path, row)
    assert (prompt.text, prompt.task, len(prompt.messages)) == ("1+2=", "text", turns)
    assert prompt.label in ("3", "3.0")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": '[{"role": "user", "content": "a \\ud83d"}]'},
        {"prompt": '[{"role": "system", "content": "a \\ud83d"}, {"role": "user", "content": "?"}]'},
        {"prompt": "?", "options": '["\\ud83d", "b"]'},
        {"prompt": "?", "answer": '["\\ud83d"]'},
    ],
)
def test_text_inside_of_json_in_a_text_is_also_checked(tmp_path, row):
    with pytest.raises(ValueError, match=r"a.jsonl:1: half of a surrogate pair \('\\ud83d'\)"):
        one(tmp_path, row)


def test_turns_before_the_question_and_other_columns_are_kept(tmp_path):
    turns = [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER]
    row = {"prompt": turns, "reward_model": {"ground_truth": {"target": 3}}, "extra_info": {"index": 7}}
    prompt = one(tmp_path, row)
    assert list(prompt.messages) == turns
    assert json.loads(prompt.label or "") == {"target": 3}
    assert prompt.metadata == {"reward_model": {"ground_truth": {"target": 3}}, "extra_info": {"index": 7}}


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "bird", "content": "1+2="}], r"a\.jsonl:1: no role 'bird'"),
        ([USER, USER], r"a\.jsonl:1: expected user and assistant in turn"),
        ([SYSTEM], r"a\.jsonl:1: expected user and assistant in turn, and the user last; found \['system'\]"),
        ([{"role": "assistant", "content": "3"}], r"a\.jsonl:1: expected user and assistant in turn"),
        (["1+2="], r"a\.jsonl:1: expected turns like"),
        ([{"role": [], "content": "1+2="}], r"a\.jsonl:1: no role \[\]"),
        ([{"role": "user", "content": 5}], r"a\.jsonl:1: expected text in each turn, found 5"),
        ([{"role": "user", "content": " "}], r"a\.jsonl:1: 'prompt' must be a text that is not empty"),
    ],
)
def test_a_chat_without_a_question_is_named(tmp_path, turns, message):
    with pytest.raises(ValueError, match=message):
        one(tmp_path, {"prompt": turns})


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("48/2 = 24\n#### 24", "24"),
        ("#### 3 and then #### 1,200 ", "1,200"),
        ("#### \\boxed{5}", "5"),
        ("2+3=5\n#### 5\nThe answer is: 5", "5"),
        ("<answer> 3 </answer>", "3"),
        ("<think>2 or 3</think>\n<Answer>\\boxed{\\frac{1}{2}}</Answer>", "\\frac{1}{2}"),
        ("<think>The answer: 4?</think> 3", "3"),
        ("So \\boxed{1} is wrong, and \\boxed{x^{2}+1} is right.", "x^{2}+1"),
        ("\\boxed{3}, \\boxed{5}", "\\boxed{3}, \\boxed{5}"),
        ("$\\boxed{3}$ and $\\boxed{5}$.", "$\\boxed{3}$ and $\\boxed{5}$."),
        ("We divide.\nAnswer: it would take 180 days.\nTherefore, the answer is: 180.", "180"),
        ("AB is a diameter.\nAnswer:D", "D"),
        ("**Answer:** 12", "12"),
        ("So it is 12.\nAns: 12", "12"),
        ("\u7b54\u6848\u662f\uff1a12", "12"),
        ("the fans: 3", "the fans: 3"),
        ("\u7b54\u6848 Answer\uff1a7", "7"),
        ("\\boxed{3", "\\boxed{3"),
        (" 7 ", "7"),
        ("", ""),
    ],
)
def test_the_gold_is_found_in_every_form(gold, answer):
    assert gold_answer(gold) == answer


@pytest.mark.parametrize("gold", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_no_gold_answer(tmp_path, gold):
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "1+2=", "label": {gold}}}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: 'label' is -?(nan|inf), which no answer can equal"):
        load_prompts(str(tmp_path / "a.jsonl"))


# Tests of images.


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_embedded_images_are_read_again_by_their_names(tmp_path, as_list, known):
    """Only parquet files of `datasets` say that a column contains images."""
    image = {"bytes": png("blue"), "path": None}
    cell = [image] if as_list else image
    feature: Any = datasets.Image()
    if not known:
        feature = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features(
        {
            "image": datasets.List(feature) if as_list else feature,
            "problem": datasets.Value("string"),
            "solution": datasets.Value("string"),
        }
    )
    rows = {"image": [cell, cell], "problem": ["<image>How many?", "Which?"], "solution": ["<answer> 3 </answer>"] * 2}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    prompts = load_prompts(str(tmp_path / "a.parquet"))
    assert [(p.task, p.text, p.label) for p in prompts] == [("mmu", "How many?", "3"), ("mmu", "Which?", "3")]
    assert read_image(prompts[1].images[0]).getpixel((0, 0)) == (0, 0, 255)
    assert prompts[1].metadata == {"solution": "<answer> 3 </answer>"}, "rewards get bytes of images"


def test_an_image_that_is_no_longer_in_its_table_is_an_error_of_one_line(tmp_path):
    row = {"prompt": "?", "image": "data:image/png;base64," + base64.b64encode(png()).decode()}
    prompt = one(tmp_path, row)
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl"):
        read_image(prompt.images[0])


@pytest.mark.parametrize(
    "cell",
    [
        "data:image/png;base64," + base64.b64encode(png()).decode(),
        [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many?"}],
        [{"type": "image_url", "image_url": {"url": "a.png"}}],
        [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}],
        {"bytes": None, "path": "a.png"},
        {"bytes": png(), "path": "elsewhere.png"},
        ["a.png"],
        [None, "a.png", ""],
        "file://a.png",
    ],
)
def test_one_image_is_found_in_every_form_of_a_cell(cell):
    assert images_in(cell, "here") in ([png()], ["a.png"])


def test_long_base64_is_an_image_and_a_path_is_not():
    buffer = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(buffer, "JPEG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert len(text) > 255
    assert images_in(text, "here") == [buffer.getvalue()]
    assert images_in("/9j/photo.jpg", "here") == ["/9j/photo.jpg"]


def test_image_markers_are_removed_if_the_layout_adds_the_image(tmp_path):
    row = {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>\nSee <image 1>: how many?"}],
           "solution": "3"}  # fmt: skip
    prompt = one(tmp_path, row)
    assert (prompt.text, prompt.task, prompt.images) == ("See: how many?", "mmu", (str(tmp_path / "a.png"),))
    assert one(tmp_path, {"prompt": "What does <image> mean in HTML?"}).text == "What does <image> mean in HTML?"


def test_a_part_of_a_chat_is_the_image_of_the_prompt(tmp_path):
    content = [{"type": "image", "image": "b/a.png"}, {"type": "text", "text": "How many?"}]
    prompt = one(tmp_path, {"prompt": [{"role": "user", "content": content}], "answer": "3"})
    assert (prompt.text, prompt.task, prompt.images) == ("How many?", "mmu", (str(tmp_path / "b/a.png"),))
    assert prompt.messages == ({"role": "user", "content": "How many?"},)
    as_text = one(tmp_path, {"message": json.dumps([{"role": "user", "content": content}]), "answer": "3"})
    assert (as_text.text, as_text.task, as_text.images) == ("How many?", "mmu", (str(tmp_path / "b/a.png"),))
    inside = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"}}]
    embedded = one(tmp_path, {"prompt": json.dumps([{"role": "user", "content": [*inside, *content[1:]]}])})
    assert read_image(embedded.images[0]).size == (3, 2)


def test_choices_follow_the_question_unless_it_has_them(tmp_path):
    for options in (["red", "blue"], "['red', 'blue']", {"text": ["red", "blue"], "label": ["A", "B"]}):
        assert one(tmp_path, {"question": "Which?", "options": options}).text == "Which?\nA. red\nB. blue"
    assert one(tmp_path, {"question": "red or blue?", "choices": ["red", "blue"]}).text == "red or blue?"


def test_a_text_to_which_the_question_refers_is_put_before_it(tmp_path):
    row = {"question": "Who has it?", "passage": "Tom has a cup. ", "label": "Tom"}
    assert one(tmp_path, row).text == "Tom has a cup.\nWho has it?"
    assert one(tmp_path, {**row, "question": "Tom has a cup. Who has it?"}).text == "Tom has a cup. Who has it?"
    assert one(tmp_path, {**row, "passage": None, "context": {"title": ["x"]}}).text == "Who has it?"
    assert one(tmp_path, {**row, "question": [USER]}).text == "1+2=", "nothing is added to a chat"
    assert one(tmp_path, {**row, "hint": "It is Tom."}).text == "Tom has a cup.\nWho has it?"
    assert one(tmp_path, {"caption": "a cat", "context": "x"}, task="t2i").text == "a cat"
    asked = {"instruction": "Add the numbers.", "input": "1 and 2", "output": "3"}
    assert (one(tmp_path, asked).text, one(tmp_path, asked).label) == ("Add the numbers.\n1 and 2", "3")


def test_a_column_that_says_whether_an_answer_was_right_is_no_gold_answer(tmp_path):
    assert one(tmp_path, {"prompt": "1+2=", "correct": True}).label is None
    with pytest.raises(ValueError, match="'answer' is True; write the answer, such as yes or no, into the file"):
        one(tmp_path, {"question": "Is it?", "answer": True})


# Tests of settings of a file.


def test_settings_name_columns_task_and_instruction(tmp_path):
    row = {"caption": "a cat", "photo": "a.png", "text": "x", "task": "captioning"}
    drawn = one(tmp_path, row, task="t2i", instruction="")
    assert (drawn.text, drawn.task, drawn.images, drawn.instruction) == ("a cat", "t2i", (), "")
    assert drawn.metadata["task"] == "captioning", "the column of another meaning is kept"
    seen = one(tmp_path, {**row, "task": "mmu"}, prompt_key="text", image_key="photo", label_key="caption",
               image_folder="/images")  # fmt: skip
    assert (seen.text, seen.task, seen.label, seen.images) == ("x", "mmu", "a cat", ("/images/a.png",))
    with pytest.raises(ValueError, match=r"no column 'quest' \(prompt_key\) in a\.jsonl:1 .* found \['caption', 'ph"):
        one(tmp_path, row, prompt_key="quest")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no task 'captioning'; choose one of .* or set task of this"):
        one(tmp_path, row)


def test_weights_are_the_fractions_of_files():
    files = (PromptFileConfig(path="a.jsonl", weight=3.0), PromptFileConfig(path="b.jsonl", weight=1.0))
    assert prompt_weights(DataConfig(prompt_dataset=files)) == {"a.jsonl": 3.0, "b.jsonl": 1.0}
    with pytest.raises(ValueError, match="1 of 2 prompt files have a weight"):
        DataConfig(prompt_dataset=(files[0], PromptFileConfig(path="b.jsonl")))
    with pytest.raises(ValueError, match="prompt_probs and the weight of a prompt file are the same setting"):
        DataConfig(prompt_dataset=files, prompt_probs=(1.0, 1.0))


def test_the_log_names_image_columns_of_rows_after_the_first_ones(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"task": "text", "prompt": f"{i}+1=", "label": i + 1} for i in range(120)]
    rows.append({"task": "mmu", "prompt": "Which colour?", "label": "red", "img": "a.png"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level("INFO"):
        load_prompts(str(tmp_path / "a.jsonl"))
    assert "prompts: 1 mmu, 120 text; question from 'prompt', gold from 'label', images from 'img'" in caplog.text


@pytest.mark.parametrize(("task", "warns"), [("", True), ("text", False), ("t2i", False)])
def test_texts_without_golds_that_may_be_captions_are_named_unless_their_task_is_given(tmp_path, caplog, task, warns):
    (tmp_path / "a.txt").write_text("a red circle\n")
    load_prompts(str(tmp_path / "a.txt"), default_task=task)
    assert ("have no gold answer; set task: t2i for this file if they are captions" in caplog.text) == warns


@pytest.mark.parametrize(("settings", "warns"), [({}, True), ({"task": "t2i"}, False), ({"label_key": "tag"}, False)])
def test_captions_that_are_asked_about_their_images_are_named(tmp_path, caplog, settings, warns):
    (tmp_path / "a.png").write_bytes(png())
    one(tmp_path, {"image": "a.png", "caption": "a red circle", "tag": "x"}, **settings)
    assert ("asks its captions as questions about their images; set task: t2i" in caplog.text) == warns


def test_few_bad_rows_are_skipped_and_counted_and_more_are_an_error(tmp_path, caplog):
    rows = [json.dumps({"prompt": f"{i}+1=", "label": i + 1}) for i in range(199)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, "{"]) + "\n")
    with caplog.at_level("INFO"):
        assert len(load_prompts(str(tmp_path / "a.jsonl"))) == 199
    assert "skipped (no JSON): a.jsonl:200: not JSON" in caplog.text
    assert "199 text; question from 'prompt', gold from 'label'" in caplog.text or not caplog.text.count(
        "rows, prompts"
    )
    with pytest.raises(
        ValueError, match=r"1 of 200 rows of .* cannot be used, more than data\.max_bad_fraction 0\.001"
    ):
        load_prompts(str(tmp_path / "a.jsonl"), bad=BadRows(0.001))


# Tests of prompts as tokens.


@pytest.mark.parametrize("template", ["chat", "chat_one_newline"])
def test_earlier_turns_are_before_the_question_with_its_instruction(tokenizer, vocabulary, template):
    prompt = Prompt(id="a:1", text="1+2=", messages=(SYSTEM, USER), instruction="Add. ")
    data = DataConfig(prompt_template=template, instruction="Think. ")
    tokens = tokenizer.convert_ids_to_tokens(encode_prompt(prompt, tokenizer, vocabulary, data).tolist())
    start, end, stop = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
    assert tokens == [
        "<|startoftext|>", start, *"system", end, "\n", *"You think.", stop,
        start, *"user", end, "\n", *"Add. 1+2=", stop, start, *"assistant", end, "\n",
    ]  # fmt: skip


def test_turns_that_a_template_does_not_support_are_refused(tokenizer, vocabulary):
    prompt = Prompt(id="a:1", text="1+2=", messages=(SYSTEM, USER))
    with pytest.raises(ValueError, match=r"a:1: 1 turns come before the question, but .* plain has no turns"):
        encode_prompt(prompt, tokenizer, vocabulary, DataConfig(prompt_template="plain"))
    drawn = Prompt(id="a:1", text="1+2=", messages=(SYSTEM, USER), task="t2i")
    with pytest.raises(ValueError, match="task 't2i' takes one caption"):
        encode_prompt(drawn, tokenizer, vocabulary, DataConfig())


@pytest.mark.parametrize("text", ["a<|eot_id|>b", "<|endoftext|>", "<|soi|>", "<|mdm_mask|>", "<|start_header_id|>x"])
def test_text_that_spells_a_special_token_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match=r"a:1: the text holds the special tokens \['<\|"):
        check_prompt_text(Prompt(id="a:1", text=text), tokenizer)
    with pytest.raises(ValueError, match="special tokens"):
        check_prompt_text(
            Prompt(id="a:1", text="1+2=", messages=({"role": "system", "content": text}, USER)), tokenizer
        )
    check_prompt_text(Prompt(id="a:1", text="a <b> |c|", messages=(SYSTEM, USER)), tokenizer)


def test_a_chat_template_that_fails_is_an_error_of_one_line(tiny_model_folder, vocabulary):
    broken = AutoTokenizer.from_pretrained(tiny_model_folder)
    for template in ("{% for m in %}", "{{ messages[3]['content'] + 1 }}", "{{ raise_exception('no system') }}"):
        broken.chat_template = template
        with pytest.raises(ValueError, match=r"chat template fails on a prompt \(\w+: .*repair"):
            encode_prompt(Prompt(id="a:1", text="1+2="), broken, vocabulary, DataConfig())


def test_text_that_comes_from_no_table_is_also_checked(tokenizer, vocabulary):
    with pytest.raises(ValueError, match=r"demo: half of a surrogate pair"):
        encode_prompt(Prompt(id="demo", text="cut \ud83d"), tokenizer, vocabulary, DataConfig())
