"""Tests how prompt files are read, and the errors about broken lines."""

import json
from collections import Counter

import pytest

from unigrpo.data.golds import gold_answer
from unigrpo.data.prompt_stream import PromptStream, balance_across_ranks, repeat_prompts
from unigrpo.data.prompts import load_prompts
from unigrpo.records import Prompt


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_gsm8k_is_read_unchanged(tmp_path):
    file = write(tmp_path / "train.jsonl", {"question": "2 apples and 3?", "answer": "2+3=<<2+3=5>>5\n#### 5"})
    (prompt,) = load_prompts(file)
    assert (prompt.id, prompt.text, prompt.label, prompt.task) == ("train.jsonl:1", "2 apples and 3?", "5", "text")


def test_rewards_get_other_columns_and_named_columns_have_priority(tmp_path):
    file = write(tmp_path / "a.jsonl", {"prompt": "no", "q": "yes", "gold": "7", "level": 3})
    (prompt,) = load_prompts(file, input_key="q", label_key="gold")
    assert (prompt.text, prompt.label) == ("yes", "7")
    assert prompt.metadata == {"prompt": "no", "level": 3, "gold": "7"}, "the gold answer keeps its name"


def test_several_files_are_joined_and_empty_lines_skipped(tmp_path):
    one = write(tmp_path / "a.jsonl", {"prompt": "1"}, "", {"prompt": "2"})
    two = write(tmp_path / "b.jsonl", {"prompt": "3"})
    assert [p.id for p in load_prompts(f"{one},{two}")] == ["a.jsonl:1", "a.jsonl:3", "b.jsonl:1"]
    assert len(load_prompts(f"{one},{two}", max_samples=2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "1"', r"bad.jsonl:2: not JSON"),
        ("[1, 2]", r"bad.jsonl:2: expected a JSON object, found list"),
        ('{"text": "1"}', r"bad.jsonl:2: no column for the question .* found keys \['text'\]"),
        ('{"prompt": ""}', r"bad.jsonl:2: 'prompt' must be a text that is not empty"),
        ('{"prompt": 5}', r"bad.jsonl:2: 'prompt' must be a text .* found 5"),
        ('{"prompt": "x", "task": "t3i"}', r"bad.jsonl:2: no task 't3i'; choose one of"),
        ('{"prompt": "x", "task": "mmu"}', r"bad.jsonl:2: task 'mmu' needs \"image\""),
        ('{"prompt": "x", "task": "mmu", "image": ""}', r"bad.jsonl:2: task 'mmu' needs \"image\""),
        ('{"prompt": "x", "task": "mmu", "image": 5}', r"bad.jsonl:2: \"image\" must be the path .* found 5"),
        ('{"prompt": "x", "task": "mmu", "images": ["a", "b"]}', r"bad.jsonl:2: .* reads one image; found 2"),
        ('{"prompt": "x", "task": "mmu", "image": "a", "images": "b"}', r"bad.jsonl:2: .* one image; found 2"),
        (
            '{"prompt": "x", "task": "text", "image": "a"}',
            r"bad.jsonl:2: task 'text' reads no image, only 'mmu' does; found '.*/a'",
        ),
        ('{"task": "t2i"}', r"bad.jsonl:2: no column for the question"),
        (
            '{"prompt": "x", "label": ["1", "2"]}',
            r"bad.jsonl:2: 'label' must be a text or a number; found \['1', '2'\]",
        ),
        ('{"prompt": "x", "label": true}', r"bad.jsonl:2: 'label' is True; write the answer, such as yes"),
        ('{"prompt": "x", "label": 1, "label": 2}', r"bad.jsonl:2: not JSON .key 'label' occurs more than once"),
    ],
)
def test_a_broken_line_is_named_with_file_and_line(tmp_path, line, message):
    file = write(tmp_path / "bad.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(ValueError, match=message):
        load_prompts(file)


def test_one_error_lists_the_broken_lines_of_all_files(tmp_path):
    one = write(tmp_path / "a.jsonl", "{", {"prompt": "fine"}, {"prompt": "x", "task": "t3i"})
    (tmp_path / "b").mkdir()
    two = write(tmp_path / "b" / "a.jsonl", *["[]"] * 5)
    with pytest.raises(ValueError, match="not JSON") as caught:
        load_prompts(f"{one},{two}")
    folder = tmp_path.name
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert places == [f"{folder}/a.jsonl:1", f"{folder}/a.jsonl:3", "b/a.jsonl:1", "b/a.jsonl:2", "b/a.jsonl:3",
                      "... and 2 more", f"2 of 3 rows of {one} and 5 of 5 rows of {two} cannot be used, more than "
                      "data.max_bad_fraction 0.01 allows; repair the data or raise it"]  # fmt: skip


@pytest.mark.parametrize(("names", "message"), [("{0},", "after a comma"), ("{0}, {0}", "a.jsonl twice")])
def test_names_of_files_are_complete_and_different(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        load_prompts(names.format(write(tmp_path / "a.jsonl", {"prompt": "1"})))


def test_the_first_samples_have_equally_many_of_each_task(tmp_path):
    rows = [
        {"task": task, "prompt": f"{task}{i}"} for task, n in (("text", 6), ("r2i", 1), ("t2i", 5)) for i in range(n)
    ]
    file = write(tmp_path / "a.jsonl", *rows)
    assert [p.text for p in load_prompts(file, max_samples=6)] == ["text0", "text1", "text2", "r2i0", "t2i0", "t2i1"]
    assert [p.text for p in load_prompts(file, max_samples=2, tasks=("t2i",))] == ["t2i0", "t2i1"]
    with pytest.raises(
        ValueError, match=r"no prompt of the tasks \['mmu'\]; its prompts have \['r2i', 't2i', 'text'\]"
    ):
        load_prompts(file, tasks=("mmu",))


def test_lines_without_a_task_take_the_default_and_a_byte_order_mark_is_no_text(tmp_path):
    file = write(tmp_path / "a.jsonl", '\ufeff{"prompt": "1"}', {"prompt": "2", "task": "r2i"})
    assert [p.task for p in load_prompts(file, default_task="t2i")] == ["t2i", "r2i"]


def test_invalid_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"latin.jsonl:1: not UTF-8 text"):
        load_prompts(str(path))


def test_a_missing_file_an_empty_file_and_an_unknown_data_set_are_errors(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("the hub cannot be reached")

    monkeypatch.setattr("datasets.load_dataset_builder", unreachable)
    with pytest.raises(ValueError, match="no such file"):
        load_prompts(str(tmp_path / "absent.jsonl"))
    with pytest.raises(ValueError, match="holds no row"):
        load_prompts(write(tmp_path / "empty.jsonl"))
    with pytest.raises(ValueError, match=r"nobody/no-such-name: no file here .* and no data set of the Hub"):
        load_prompts("nobody/no-such-name")


def test_a_folder_of_a_data_set_may_replace_a_name_on_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "arithmetic"
    folder.mkdir()
    write(folder / "train.jsonl", {"question": "1+1", "answer": "#### 2"}, {"question": "2+2", "answer": "#### 4"})
    monkeypatch.chdir(tmp_path)
    prompts = load_prompts("arithmetic", split="train")
    assert [(p.text, p.label) for p in prompts] == [("1+1", "2"), ("2+2", "4")]
    assert [p.text for p in load_prompts(str(folder), split="train")] == ["1+1", "2+2"]
    assert prompts[1].id == "arithmetic[train]/train.jsonl:2"


def test_the_gold_answer_is_the_text_after_the_last_marker():
    assert gold_answer("#### 3 and then #### 1,200 ") == "1,200"
    assert gold_answer(" 7 ") == "7"


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=f"p:{i}", text=str(i)) for i in range(count)]


def test_every_epoch_visits_every_prompt_once_in_another_order():
    stream = PromptStream(prompts(6), batch_size=3, num_samples=2, seed=1)
    epochs = [[r.prompt.text for step in steps for r in stream.requests(step)[::2]] for steps in ((0, 1), (2, 3))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [str(i) for i in range(6)]
    assert epochs[0] != epochs[1]


def test_a_step_depends_on_its_number_alone_so_that_resuming_is_exact():
    straight = PromptStream(prompts(5), batch_size=3, num_samples=2, seed=1)
    all_steps = [straight.requests(step) for step in range(6)]
    assert PromptStream(prompts(5), batch_size=3, num_samples=2, seed=1).requests(4) == all_steps[4]
    assert [r.sample_id for r in all_steps[2]] == list(range(6))
    assert [r.group_id for r in all_steps[2]] == [0, 0, 1, 1, 2, 2]


def test_images_are_relative_to_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "x", "task": "mmu", "image": "b/c.png"}\n')
    assert load_prompts(str(tmp_path / "a.jsonl"))[0].images == (str(tmp_path / "b" / "c.png"),)


def test_each_file_has_its_fraction_of_the_prompts_and_its_own_epochs():
    mixed = [
        Prompt(id=f"{name}:{i}", text=str(i), dataset=name) for name, n in (("a", 3), ("b", 50)) for i in range(n)
    ]
    stream = PromptStream(mixed, batch_size=100, num_samples=1, seed=1, probs={"a": 3.0, "b": 1.0})
    drawn = [r.prompt for step in range(10) for r in stream.requests(step)]
    of_a = [p.text for p in drawn if p.dataset == "a"]
    assert len(of_a) == 750  # of 1000, exactly
    assert all(sorted(of_a[i : i + 3]) == ["0", "1", "2"] for i in range(0, 750, 3))
    again = PromptStream(mixed, batch_size=100, num_samples=1, seed=1, probs={"a": 3.0, "b": 1.0})
    assert [r.prompt for r in again.requests(7)] == drawn[700:800]
    with pytest.raises(ValueError, match=r"c has a sampling weight .*, but no prompt"):
        PromptStream(mixed, batch_size=1, num_samples=1, seed=1, probs={"a": 1.0, "c": 1.0})


def test_each_rank_gets_whole_groups_and_equally_many_of_each_task():
    tasks = ["text", "t2i", "t2i", "text", "mmu", "t2i", "mmu", "t2i"]
    requests = repeat_prompts([Prompt(id=str(i), text="?", task=task) for i, task in enumerate(tasks)], 3, step=0)
    shared = balance_across_ranks(requests, 2)
    assert sorted(r.sample_id for r in shared) == list(range(24))
    for share in (shared[:12], shared[12:]):
        assert Counter(r.prompt.task for r in share) == {"text": 3, "mmu": 3, "t2i": 6}
        assert [r.group_id for r in share[::3]] == [r.group_id for r in share[2::3]]
    assert balance_across_ranks(requests, 1) == requests


def test_an_image_column_may_be_empty_in_the_first_rows(tmp_path):
    rows = [{"task": "text", "prompt": f"{i}+1=", "label": str(i + 1)} for i in range(150)]
    rows.append({"task": "mmu", "prompt": "How many?", "label": "3", "image": "a.png"})
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = load_prompts(str(tmp_path / "mixed.jsonl"))
    assert prompts[-1].images == (str(tmp_path / "a.png"),)
    assert len(prompts) == 151


def test_long_and_many_names_of_columns_are_shown_in_part(tmp_path):
    names = ["a" * 3000, *(f"column_{number}" for number in range(300))]
    (tmp_path / "prompts.tsv").write_text("\t".join(names) + "\n" + "\t".join("1" for _ in names) + "\n")
    with pytest.raises(ValueError, match=r"no column for the question.* found \['a{40}', .* and 261 more") as raised:
        load_prompts(str(tmp_path / "prompts.tsv"))
    assert len(str(raised.value)) < 2000
