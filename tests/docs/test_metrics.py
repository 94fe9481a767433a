"""Tests the notation of docs/metrics.md. Tests that make runs check that the page explains all their metrics."""

from builders import undocumented_metrics


def test_names_with_placeholders_are_patterns():
    names = ["reward/short_mean/t2i", "ratio/clipped_fraction_mask_0.25_0.50", "broken/lm/web", "grad_norm"]
    assert undocumented_metrics(names) == []
    assert undocumented_metrics(["reward/short_median", "grad_norms", "time/lunch_seconds"]) == [
        "grad_norms", "reward/short_median", "time/lunch_seconds",
    ]  # fmt: skip
