import io
import json

import pytest
from rich.console import Console

from medvista_jax.evaluation.tables import (
    NEEDS,
    ROW_KEYS,
    Protocol,
    check_rows,
    main,
    make_row,
    markdown,
    markdown_table,
    merge_seeds,
    needless,
    print_table,
    read_rows,
    write_tables,
)

PROTOCOL = Protocol(
    dataset="packaged atlas (implanted targets)",
    split="test",
    scorer="exact match",
    decoding="greedy",
    notes=("No clinical claim.",),
)


def row(condition="sft", needs="zoom", correct=50, n=100, seed=0, tools=True, decoding="greedy", calls=120):
    return make_row(
        condition=condition,
        needs=needs,
        tools=tools,
        decoding=decoding,
        correct=correct,
        n=n,
        calls=calls,
        seed=seed,
        seconds=1.234,
    )


def test_a_row_has_exactly_the_keys_of_the_contract():
    made = row()
    assert tuple(made) == ROW_KEYS
    assert made == {
        "condition": "sft",
        "needs": "zoom",
        "tools": True,
        "decoding": "greedy",
        "accuracy": 0.5,
        "n": 100,
        "ci95": pytest.approx([0.4038, 0.5962], abs=1e-4),
        "calls_per_question": 1.2,
        "seed": 0,
        "seconds": 1.23,
    }


def test_one_seed_as_markdown():
    rows = [
        row("sft_grpo", "all", 184, 200, calls=300),
        row("sft_grpo", "zoom", 94, 100),
        row("sft_grpo", "none", 90, 100, calls=0),
        row("random_policy", "all", 50, 200, tools=False, calls=0),
    ]
    expected = """\
| condition     | tools | decoding |             none |             zoom |              all | calls |   n |
| ------------- | ----- | -------- | ---------------: | ---------------: | ---------------: | ----: | --: |
| random policy | off   | greedy   |                – |                – | 25.0 (19.5–31.4) |  0.00 | 200 |
| SFT + GRPO    | on    | greedy   | 90.0 (82.6–94.5) | 94.0 (87.5–97.2) | 92.0 (87.4–95.0) |  1.50 | 200 |

Accuracy in percent (95 % Wilson interval), by what an item needs; calls: tool calls a question; n: items.

Protocol: data set packaged atlas (implanted targets); split test; 200 items a seed; scorer exact match; \
decoding greedy; seed 0.

Share of tool calls on items that need none: SFT + GRPO, greedy 0.0 %.

No clinical claim.
"""
    assert markdown(rows, PROTOCOL) == expected


def test_seeds_are_merged():
    rows = [row(correct=correct, seed=seed, calls=calls) for seed, correct, calls in [(0, 90, 100), (1, 96, 130)]]
    merged = merge_seeds(rows)
    assert (merged.mean, merged.minimum, merged.maximum) == pytest.approx((0.93, 0.9, 0.96))
    assert merged.text() == "93.0 (88.6–95.8) [90.0–96.0]"
    assert merged.n == 200 and merged.calls_per_question == 1.15
    text = markdown(rows, PROTOCOL)
    assert "93.0 (88.6–95.8) [90.0–96.0] |  1.15 | 200 |" in text
    assert "seeds pooled) [lowest–highest seed]" in text and "100 items a seed" in text and "seeds 0, 1." in text


def test_tools_on_and_off_are_lines_of_their_own():
    rows = [row(tools=tools, decoding=decoding) for tools in (False, True) for decoding in ("sampled", "greedy")]
    lines = [line.split("|")[2:4] for line in markdown(rows, PROTOCOL).splitlines()[2:6]]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["on", "greedy"],
        ["on", "sampled"],
        ["off", "greedy"],
        ["off", "sampled"],
    ]


def test_files_round_trip(tmp_path):
    rows = [row(), row("oracle_crop", "détail ✓", 100, 100)]
    write_tables(tmp_path / "run", rows, PROTOCOL)
    assert read_rows(tmp_path / "run" / "table.json") == rows
    assert [list(r) for r in json.loads((tmp_path / "run" / "table.json").read_text())] == [list(ROW_KEYS)] * 2
    assert (tmp_path / "run" / "table.md").read_text() == markdown(rows, PROTOCOL)


def test_wrong_rows_are_refused():
    with pytest.raises(ValueError, match="missing keys .'seed'., unknown keys .'sead'."):
        check_rows([{("sead" if k == "seed" else k): v for k, v in row().items()}])
    with pytest.raises(ValueError, match="not inside"):
        check_rows([{**row(), "accuracy": 50.0}])
    with pytest.raises(ValueError, match="two rows"):
        check_rows([row(), row()])
    with pytest.raises(ValueError, match="at least one item"):
        row(correct=0, n=0)
    with pytest.raises(ValueError, match="decoding"):
        row(decoding="beam")


def test_console_shows_what_the_file_shows():
    stream = io.StringIO()
    print_table([row()], PROTOCOL, Console(file=stream, width=120))
    assert "SFT with tools" in stream.getvalue() and "50.0 (40.4–59.6)" in stream.getvalue()
    assert "Protocol: data set" in stream.getvalue()


@pytest.mark.parametrize("width", [80, 120, 220])
def test_no_cell_is_cut_on_any_terminal(width):
    rows = [row(needs=need, condition=name) for name in ("no_tools", "sft") for need in (*NEEDS, "all")]
    stream = io.StringIO()
    print_table(rows, PROTOCOL, Console(file=stream, width=width))
    text = stream.getvalue()
    assert "…" not in text.split("Accuracy")[0] and "trained without tools" in text and "50.0" in text
    assert ("measure" in text) == (width >= 120) and ("(40.4–59.6)" in text) == (width >= 220)


def test_share_of_needless_calls_is_weighted_by_items():
    of = lambda needs, n, calls, **more: row(needs=needs, correct=0, n=n, calls=calls, **more)  # noqa: E731
    rows = [of("none", 20, 5), of("all", 100, 80), of("none", 40, 0, seed=1), of("all", 60, 20, seed=1)]
    assert needless(rows) == "Share of tool calls on items that need none: SFT with tools, greedy 5.0 %."
    silent = [of(need, 10, 0) for need in ("none", "all")]
    assert needless(silent).endswith("SFT with tools, greedy no calls.")
    assert needless(rows[:1]) == "" and needless([{**r, "condition": "no_tools"} for r in rows]) == ""


def test_the_command_prints_the_part_asked_for(tmp_path, capsys):
    rows = [row(condition=name, needs=need) for name in ("sft", "sft_grpo") for need in ("none", "zoom", "all")]
    write_tables(tmp_path, rows, PROTOCOL)
    path = str(tmp_path / "table.json")
    assert main([path]) == 0 and capsys.readouterr().out == markdown_table(rows)
    assert main([path, "--needs", "zoom", "--conditions", "sft"]) == 0
    assert capsys.readouterr().out == markdown_table([row()])
    assert main([path, "--needs", "zoon"]) == 2
    assert "no needs zoon; there are none, zoom, all" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.json")]) == 2 and "absent.json" in capsys.readouterr().err


def test_a_column_of_one_digit_has_a_rule():
    """``:`` alone is no rule of a table in Markdown."""
    row = make_row(
        condition="sft", needs="all", tools=True, decoding="greedy", correct=1, n=4, calls=4, seed=0, seconds=1.0
    )
    rule = markdown_table([row]).splitlines()[1]
    assert all(set(cell.strip().strip(":")) == {"-"} for cell in rule.strip("|").split("|"))
