"""Tests a run on a Ray cluster whose data sets and model are on the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_client import HubClient
from hub_server import HubServer
from hub_sets import shapes, sums

TINY = Path(__file__).parents[3] / "examples" / "tiny"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_asks_the_hub_once_whatever_the_number_of_ranks(hub: HubServer, folder: Path) -> None:
    numbers = []
    for ranks in (1, 2):
        names = [f"other/sums{ranks}", f"other/shapes{ranks}", f"other/model{ranks}"]
        hub.add("datasets", names[0], sums())
        hub.add("datasets", names[1], shapes())
        hub.add("models", names[2], TINY / "mixcot")
        trainer = HubClient(hub.endpoint, folder / f"home_{ranks}", folder)
        trainer.python(
            "import os, ray; head = ray.init(address='local', num_cpus=4, num_gpus=2, include_dashboard=False)\n"
            "os.environ['RAY_ADDRESS'] = head.address_info['gcs_address']"
        )
        before = len(hub.requests)
        answer = trainer.run(
            "train", "--config", str(TINY.parents[1] / "launch" / "configs" / "tiny" / "unigrpo.yaml"),
            "--actor.model_name_or_path", names[2], "--actor.num_gpus_per_node", str(ranks),
            "--data.prompt_dataset", f"[{{path: '{names[0]}:main'}}, {{path: {names[1]}}}]",
            "--data.tasks", "[text, mmu]", "--data.max_prompt_tokens", "64", "--eval.dataset", "",
            "--reward.terms", "[{name: math_answer, num_cpus: 0.2}]", "--run_dir", str(folder / f"run_{ranks}"),
            "--train.num_steps", "1", "--rollout.batch_size", "8", "--rollout.n_samples_per_prompt", "2",
        )  # fmt: skip
        trainer.close()
        assert answer.status == 0, answer
        asked = [request for request in hub.requests[before:] if any(f"{name}/" in request.path for name in names)]
        downloads = [one for one in hub.requests[before:] if one.method == "GET" and one.path.startswith("/lfs/")]
        assert len(downloads) == 5, "two files of weights and three of the data sets are downloaded"
        numbers.append(len(asked))
    assert numbers[0] == numbers[1]
