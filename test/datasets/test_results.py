"""The committed measurements of data sets keep what the documentation promises."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/datasets/results.json"


def test_the_figures_hold() -> None:
    results = json.loads(RESULTS.read_text())
    assert results["round_trip_max_error"] == 0.0
    assert results["film_mean_error"] < 0.5
    assert results["pictures"]["png"]["film_mean_absolute_error"] == 0.0
    assert results["time_error_s_hour"] < 1e-4 and set(results["time_error_s_hour_by_rate"]) == {"30", "29.97"}
    assert results["export_speed_vs_real_time"] >= 3.0
    assert results["export_rss_mb"] < 1000.0 and results["export"]["bags_gb"] >= 10.0


def test_lerobot_reads_what_we_write() -> None:
    told = json.loads(RESULTS.read_text())["lerobot_reads"]
    assert told["version"] == "0.6.1"
    films = set(told["answer"]) - {"set_hour_30", "set_hour_29.97"}
    assert {"set_film", "set_film420", "set_png"} <= films
    assert set(told["answer"]) == films | {"set_hour_30", "set_hour_29.97"}
    if "set_episodes" in told["answer"]:  # made by newer scripts only
        assert told["answer"]["set_episodes"]["episodes"] == 6
    for name, each in told["answer"].items():
        worst = each["largest_difference"]
        assert worst["state"] == worst["action"] == 0.0 and each["same_tasks"], name
        assert worst["picture"] <= 1.0 and worst["time_s"] < 2e-4, name  # its times are 32 bit floats
        assert {"q01", "q99", "mean", "std"} <= set(each["statistics"])
