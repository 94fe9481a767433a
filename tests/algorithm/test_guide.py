"""Runs the tests of the built-in methods on the example methods of docs/algorithms.md."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from algorithm import test_advantage, test_objectives, test_views

from unigrpo.algorithm.entries import REDUCTIONS
from unigrpo.algorithm.likelihood.base import load_estimator
from unigrpo.algorithm.objective.base import load_objective
from unigrpo.config.algo import LEVELS

GUIDE = Path(__file__).parents[2] / "docs" / "algorithms.md"
EXAMPLE = re.compile(
    r'^```python title="unigrpo/algorithm/(?P<folder>\w+)/(?P<name>\w+)\.py"\n(?P<code>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)
EXAMPLES = {found["folder"]: (found["name"], found["code"]) for found in EXAMPLE.finditer(GUIDE.read_text())}


@pytest.fixture(autouse=True)
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the packages of methods find the files of the examples."""
    before = set(sys.modules)
    for folder, (name, code) in EXAMPLES.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(code)
        package = importlib.import_module(f"unigrpo.algorithm.{folder}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])
    importlib.invalidate_caches()
    yield
    for module in set(sys.modules) - before:
        if module.startswith("unigrpo.algorithm."):
            del sys.modules[module]


def test_there_is_an_example_of_each_kind() -> None:
    assert set(EXAMPLES) == {"likelihood", "objective", "advantage"}


@pytest.mark.parametrize("ratio", test_views.RATIOS)
@pytest.mark.parametrize("row", test_views.ROWS.values(), ids=test_views.ROWS)
def test_the_views_of_the_estimator_are_valid(row, ratio) -> None:
    name = EXAMPLES["likelihood"][0]
    test_views.test_views_are_well_formed(name, {}, row, ratio)
    test_views.test_a_view_masks_spans_as_the_sampler_does(name, {}, row)


def test_the_views_of_the_estimator_follow_from_row_and_key() -> None:
    name = EXAMPLES["likelihood"][0]
    test_views.test_padding_that_was_never_generated_is_masked_while_its_span_is_scored(name, {})
    test_views.test_the_same_key_gives_the_same_views(name, {})
    test_views.test_another_key_gives_other_views(name)
    test_views.test_a_longer_prompt_changes_nothing(name)
    test_views.test_a_response_with_nothing_to_score_has_no_weight(name)
    test_views.test_the_global_generator_is_untouched(name)


def test_every_token_is_scored_once_with_the_rate_of_its_view() -> None:
    views = test_views.views_of(load_estimator("complement", {"weight": 2.0}), test_views.ROWS["full"], 0.3)
    scored = test_views.ROWS["full"].scored_mask
    assert views.weight[:, scored].sum(dim=0).tolist() == [2.0] * 8
    assert [{round(rate, 6) for rate in rates[weight != 0].tolist()} for rates, weight in
            zip(views.rate, views.weight, strict=True)] == [{0.3}, {0.7}]  # fmt: skip
    with pytest.raises(ValueError, match="complement: weight is 0"):
        load_estimator("complement", {"weight": 0})


@pytest.mark.parametrize("level", LEVELS)
def test_the_objective_passes_the_tests_of_every_objective(level) -> None:
    name, options = EXAMPLES["objective"][0], {"level": level}
    test_objectives.test_the_gradient_is_that_of_finite_differences(name, options)
    test_objectives.test_the_gradient_in_two_passes_is_that_in_one(name, options)
    for how in REDUCTIONS:
        test_objectives.test_passes_add_up_to_the_whole_batch(name, options, how)
    test_objectives.test_the_order_of_samples_changes_nothing(name, options)
    test_objectives.test_nothing_scored_gives_zero(name, options)


def test_a_bound_above_every_ratio_gives_the_clipped_surrogate() -> None:
    loose = test_objectives.loss_and_gradient(test_objectives.BATCH, load_objective("dual_clip", {"bound": 1e6}))
    clipped = test_objectives.loss_and_gradient(test_objectives.BATCH, load_objective("clipped", {}))
    assert loose[0] == clipped[0]
    assert loose[1].tolist() == clipped[1].tolist()
    assert loose[2].metrics() == clipped[2].metrics()
    held = test_objectives.loss_and_gradient(test_objectives.BATCH, load_objective("dual_clip", {"bound": 1.01}))
    assert held[0] < clipped[0]


def test_the_advantage_estimator_passes_the_tests_of_every_advantage_estimator() -> None:
    name = EXAMPLES["advantage"][0]
    test_advantage.test_each_group_sums_to_zero(name)
    test_advantage.test_the_order_of_the_rollouts_does_not_matter(name)
    test_advantage.test_a_constant_added_to_all_rewards_changes_nothing(name)
    rewards, groups = test_advantage.REWARDS, test_advantage.GROUPS
    found = test_advantage.group_advantages(rewards, groups, name)
    assert found[groups == 2].tolist() == pytest.approx([-5 / 12, 7 / 12, -2 / 12])  # rewards 0, 2 and 0.5
