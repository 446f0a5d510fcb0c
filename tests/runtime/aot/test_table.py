"""The table of plans."""

import datetime

from medvista_jax.runtime.aot.table import table

GIB = 2**30
ROLLOUT = {"temporaries": 5 * GIB, "cache": 4 * GIB, "commit": "1a2b", "date": "2026-11-28"}
UPDATE = {
    "flops": 2.6e12,
    "model_flops": 2e12,
    "collectives": {"all-gather": [3, 2 * GIB], "all-reduce": [1, 5 * GIB]},
    "commit": "1a2b",
    "date": "2026-11-29",
}
STEP = {
    "peak": 7.04 * GIB,
    "arguments": GIB,
    "temporaries": 7 * GIB,
    "hbm": 16 * GIB,
    "lower_seconds": 10.4,
    "compile_seconds": 589.3,
    "commit": "3c4d",
    "date": "2026-11-29",
}


def test_a_row_a_plan_and_a_dash_for_what_was_not_compiled():
    plan, programs = {"mesh": [1, 8, 8]}, {"rollout": ROLLOUT, "update": UPDATE, "step": STEP}
    results = {
        "a/v5e-64": {"plan": plan, "programs": programs, "jax": "0.10.2"},
        "b/v5e-64": {"plan": plan, "programs": {"rollout": ROLLOUT | {"commit": "5e6f"}}, "jax": "0.10.2"},
    }
    head, rule, whole, part, _, about = table(results, datetime.date(2026, 11, 29)).splitlines()
    assert whole == "| a/v5e-64 | 1, 8, 8 | 7.0 / 8.0 | 16 | 0.25 | 3 | 1.30 | 7 | 600 s |"
    assert part == "| b/v5e-64 | 1, 8, 8 | – | – | 0.25 | – | – | – | – |"
    assert head.count("|") == rule.count("|") == whole.count("|") == part.count("|")
    assert about == (
        "jax 0.10.2, 2026-11-29; rollout of 1a2b (2026-11-28), 5e6f (2026-11-28); update of 1a2b (2026-11-29); "
        "step of 3c4d (2026-11-29)."
    )
