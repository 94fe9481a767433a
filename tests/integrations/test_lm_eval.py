"""Tests lm-evaluation-harness on tiny local tasks: choices by both likelihoods, and generation with stop strings."""

import json

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'unigrpo[eval]'")

from unigrpo.integrations.lm_eval import UniGRPOLM  # noqa: E402

SETTINGS = {"max_new_tokens": 8, "num_denoising_steps": 4, "block_length": 4, "device": "cpu", "num_samples": 4}


@pytest.fixture
def tasks(tmp_path):
    """Writes the definitions of a task of choices, of a task that generates, and of a task of whole texts."""
    rows = [{"question": f"{n}+{n}=", "choices": [str(2 * n), str(2 * n + 1)], "answer": 0} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    return [
        {**common, "task": "choices", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
         "doc_to_target": "{{answer}}"},
        {**common, "task": "answers", "output_type": "generate_until", "doc_to_target": "{{choices[0]}}",
         "generation_kwargs": {"until": ["a", "b"]},
         "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]},
        {**common, "task": "texts", "output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}",
         "metric_list": [{"metric": "bits_per_byte"}]},
    ]  # fmt: skip


@pytest.mark.parametrize("likelihood", ["bound", "trace"])
def test_a_tiny_local_task_is_evaluated(tiny_model_folder, tasks, likelihood):
    model = UniGRPOLM(str(tiny_model_folder), likelihood=likelihood, **SETTINGS)
    found = lm_eval.simple_evaluate(model=model, tasks=tasks, log_samples=True, bootstrap_iters=0)
    assert 0 <= found["results"]["choices"]["acc,none"] <= 1
    assert found["results"]["texts"]["bits_per_byte,none"] > 0
    nats = [float(pair[0]) for sample in found["samples"]["choices"] for pair in sample["filtered_resps"]]
    assert len(nats) == 6
    assert max(nats) < 0
    again = lm_eval.simple_evaluate(model=model, tasks=tasks[:1], log_samples=True, bootstrap_iters=0)
    assert [float(p[0]) for s in again["samples"]["choices"] for p in s["filtered_resps"]] == nats
    answers = [sample["resps"][0][0] for sample in found["samples"]["answers"]]
    assert len(answers) == 3
    assert not any(letter in answer for answer in answers for letter in "ab")
