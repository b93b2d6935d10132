"""bench/table.py on reports of `shoal bench` with known numbers, and once on real reports."""
import table
from table import Case


def result(what, tokens_per_s, *, batch=1, prompt=32, context=32, groups=1, exchange_ms=0.0, steps_ms=10.0):
    return {"what": what, "threads": 1, "batch": batch, "prompt": prompt, "context": context, "groups": groups, "isa": "avx512",
            "tokens_per_s": {"median": tokens_per_s, "min": tokens_per_s - 1, "max": tokens_per_s + 1, "runs": 3},
            "bytes_per_token": 9e8, "kv_bytes_per_token": 1e8, "read_gbs": 10.0, "share_of_bound": 0.5, "bound": "read",
            "int8_ops_per_token": 2e9, "f32_ops_per_token": 1e8,
            "parts": {"layers": {"bytes_per_token": 7e8, "int8_ops_per_token": 1e9, "f32_ops_per_token": 0},
                      "attention": {"bytes_per_token": 1e8, "int8_ops_per_token": 0, "f32_ops_per_token": 1e8},
                      "head": {"bytes_per_token": 2e8, "int8_ops_per_token": 1e9, "f32_ops_per_token": 0}},
            "expert_overhead_us_per_layer": 95.4,
            "bound_threads": 1, "read_bound_gbs": 10.0, "attention_share_of_bound": 0.625,
            "nodes": [{"node": "coordinator", "busy_share": 0.5, "elapsed_ms": steps_ms, "sum_ms": steps_ms,
                       "parts_ms": {"qkv": steps_ms - exchange_ms, "exchange": exchange_ms}}]}


def report(*results, reads=(("1", 10.0),)):
    return {"machine": {}, "results": list(results),
            "bounds": {"read_gbs": dict(reads), "vnni_gops": {key: 100.0 for key, _ in reads}, "scaled_gops": {"1": 84.0}, "wide_gops": {"1": 61.0}, "amx_gops": {},
                       "fma_gflops": {key: 25.0 for key, _ in reads}, "vnni_how": "vpdpbusd on 512 bits"},
            "model": {"name": "m", "weight_bytes": 1_000_000_000, "kv_bytes": 100_000_000, "load_s": 0.5, "load_user_s": 0.4,
                      "load_system_s": 0.3,
                      "first_touch_gbs": 1.0, "file_read_gbs": 2.0,
                      "peak_resident_bytes": 1_400_000_000}}


ONE = Case("A", 1, ())
TWO = Case("A", 2, ())
SPLIT = Case("A", 1, (), 2, "layers 1:1")
EXPERTS = Case("B", 1, (), 2, "experts over both")

MEASURED = [
    (ONE, report(result("decode", 10.0))),
    (TWO, report(result("prefill", 200.0, prompt=512, context=0), result("decode", 18.0, steps_ms=50.0),
                 result("decode", 60.0, batch=4, steps_ms=60.0), result("decode", 80.0, batch=8),
                 result("decode", 9.0, context=8192, prompt=8192), reads=(("1", 9.0), ("2", 200.0)))),
    (SPLIT, report(result("prefill", 150.0, prompt=512, context=0), result("decode", 9.5),
                   result("decode", 40.0, batch=8), result("decode", 76.0, batch=8, groups=2))),
    (EXPERTS, {**report(result("decode", 30.0, exchange_ms=1.2)),
               "round_trip_us": {"median": 53.0, "min": 50.0, "max": 90.0, "runs": 1000, "payload_bytes": 4096}}),
]

STARTS = {"A": report()}


def compared():
    return {text: (figure, aim) for text, figure, aim in table.comparisons([MEASURED], STARTS)}


def test_ratios_are_taken_between_the_right_rows():
    rows = compared()
    assert rows["A, 2 threads: time of a step with 4 streams, relative to one stream"] == ("1.20", "<= 1.15")
    assert rows["A, one stream: 2 nodes of 1 thread, layers 1:1, relative to 1 node of 1 thread"] == ("0.95", ">= 0.95")
    assert rows["A, prefill 512: 2 nodes of 1 thread, layers 1:1, relative to 1 node of 2 threads"] == ("0.75", ">= 0.8")


def test_the_faster_of_one_and_several_steps_counts():
    rows = compared()
    assert rows["A, 8 streams: 2 nodes of 1 thread, layers 1:1 (the better number of steps), relative to 1 node of 2 threads"] == ("0.95", ">= 0.9")
    # 10 GB/s and 1 GB per token.
    assert rows["the same (layers 1:1), if both nodes read their weights at the measured bandwidth"] == ("0.12", "")


def test_rows_bounded_by_reading_are_also_compared_relative_to_the_read_bandwidth():
    assert compared()["the same (layers 1:1), each relative to the read bandwidth around its own runs"] == ("1.00", "")


def test_an_exchange_is_reported_per_layer():
    rows = compared()
    assert rows["B, experts over 2 nodes: overhead per layer, beyond the longer of both nodes' computing"] == ("95 us", "<= 120 us")
    assert rows["a bare round trip of 4 KiB between the two nodes"] == ("53 us", "")
    assert rows["that overhead, in such round trips"] == ("1.8", "<= 2.2")
    assert rows["the asking node sends and waits, per layer"] == ("200 us", "")


def test_each_placement_is_compared_on_its_own():
    planned = Case("A", 1, (), 2, table.AS_PLANNED)
    rows = {text: figure for text, figure, _ in
            table.comparisons([[*MEASURED, (planned, report(result("decode", 70.0, batch=8)))]], {})}
    assert [figure for text, figure in rows.items() if text.startswith("A, 8 streams")] == ["0.88", "0.95"]


def test_memory_and_second_starts_are_compared_with_the_weights():
    rows = compared()
    assert rows["A: second start from the packed cache, per GB"] == ("0.50 s", "< 2 s")
    assert rows["A: peak memory, relative to 1.1 x weights + cache + 200 MB"] == ("1.00", "<= 1")


def test_loading_is_reported_per_thread_and_per_gigabyte():
    slow = report()
    slow["model"]["load_s"] = 1.0
    lines = table.loading_table([MEASURED, [(ONE, slow), (Case("A", 2, (), first_round_only=True), report())]])[2:]
    assert lines == ["| A, 1 thread | 1.50 (1.00-2.00) | >= 1.5 | 0.40 (0.40-0.40) | 0.30 (0.30-0.30) | 2.00 (2.00-2.00) | 1.00 (1.00-1.00) |",
                     "| A, 2 threads | 1.00 (1.00-1.00) | >= 1.5 | 0.40 (0.40-0.40) | 0.30 (0.30-0.30) | 1.00 (1.00-1.00) | 0.50 (0.50-0.50) |"]
    assert lines[1] in table.page([MEASURED], STARTS, 0.5, 12)


def test_rows_that_were_not_measured_are_not_compared():
    rows = compared()
    assert not any("2048" in text or "32768" in text for text in rows)
    assert table.comparisons([], {}) == []


def test_rows_are_compared_within_their_round():
    # The machine has half the speed in the second round. Ratios within a round do not change; medians over both would.
    slow = [(ONE, report(result("decode", 5.0))), (SPLIT, report(result("decode", 4.0)))]
    lines = {text: figure for text, figure, _ in table.comparisons([MEASURED, slow], {})}
    assert lines["A, one stream: 2 nodes of 1 thread, layers 1:1, relative to 1 node of 1 thread"] == "0.88 (0.80-0.95)"
    assert "| A | 1 x 1 | decode at 32 | 7.5 (4.0-11.0) |" in table.page([MEASURED, slow], STARTS, 0.5, 12)


def test_a_case_of_the_first_round_only_is_compared_in_that_round():
    deep = Case("A", 2, (), first_round_only=True)
    lines = {text: figure for text, figure, _ in table.comparisons([[(deep, report(result("decode", 6.3, context=32768)))], MEASURED], {})}
    assert lines["A, 2 threads, decode at 32768: attention's share of its own bound"] == "62 %"
    assert lines["A, long contexts: peak memory, relative to 1.1 x weights + cache + 200 MB"] == "1.00"


def test_rows_name_machine_shape_threads_and_spread():
    text = table.page([MEASURED], STARTS, 0.5, 12)
    assert "| A | 2 x 1, layers 1:1 | decode at 32, 8 streams in 2 steps | 76.0 (75.0-77.0) | 1000.0 | 10.0 | 10.0 (10.0-10.0) | 760 % of read | 760 % (all read) |  |" in text
    assert "| reads, GB/s | 10.0 (9.0-10.0) | 200.0 (200.0-200.0) |" in text
    assert "| 8-bit with scales, Gop/s | 84 (84-84) | " in text
    assert "| 8-bit weights with scales, Gop/s | 61 (61-61) | " in text
    assert "tiles" not in text  # no process had AMX
    assert "load 0.5 at the start; kernels: avx512" in text


def test_percentages_are_of_the_best_multiply_rate_and_of_the_row_s_own_read_bandwidth():
    faster = report(result("decode", 10.0))
    faster["bounds"]["vnni_gops"]["1"] = 90.0
    rates = table.best_rates([[*MEASURED, (ONE, faster)]])
    assert rates == {"vnni_gops": {1: 100.0, 2: 100.0}, "fma_gflops": {1: 25.0, 2: 25.0}}
    alone = MEASURED[0][1]["results"][0]
    assert table.over_rounds([{**alone, "read_bound_gbs": 12.5}], table.share, rates) == "80 % of read"
    # 1 GB at 10 GB/s takes 100 ms; 2 Gop at 100 Gop/s and 0.1 GFLOP at 25 GFLOP/s take 24 ms. It took 100 ms.
    assert table.over_rounds([alone], table.share, rates) == "100 % of read"
    assert table.over_rounds([{**alone, "int8_ops_per_token": 20e9}], table.share, rates) == "204 % of multiply"
    rates["amx_gops"] = {1: 1000.0}
    assert table.over_rounds([{**alone, "int8_ops_per_token": 96e9}], table.share, rates) == "964 % of multiply"
    assert table.over_rounds([{**alone, "int8_ops_per_token": 90e9, "isa": "amx"}], table.share, rates) == "100 % of read"


def test_the_bounds_of_phases_are_added_each_with_its_own_reason():
    rates = table.best_rates([MEASURED])
    alone = MEASURED[0][1]["results"][0]
    # 70 + 10 + 20 ms of reading, each longer than the 10, 4 and 10 ms of multiplying. The step took 100 ms.
    assert table.over_rounds([alone], table.share_per_phase, rates) == "100 % (all read)"
    head = {"bytes_per_token": 2e8, "int8_ops_per_token": 5e9, "f32_ops_per_token": 0}  # 50 ms of multiplying
    busy = {**alone, "parts": {**alone["parts"], "head": head}}
    assert table.over_rounds([busy], table.share_per_phase, rates) == "130 % (head multiply, else read)"


def test_a_breakdown_shows_phases_and_their_sum():
    lines = table.breakdown_table([MEASURED])
    assert lines[0] == "| ms (%) | A, prefill 512 | A, decode at 32 | A, decode at 8192 |"
    assert lines[-1].startswith("| total | 10.00 of 10.00 | 50.00 of 50.00 |")
    assert "| qkv | 10.00 (100.0) | 50.00 (100.0) | 10.00 (100.0) |" in lines


def test_a_program_that_fails_is_an_error_with_its_exit_status(tmp_path, capsys):
    assert table.main(["--quick", "--shoal", "/bin/false", "--cache", str(tmp_path)]) == 1
    assert "exit status 1" in capsys.readouterr().err


def test_shoal_bench_accepts_the_flags_of_all_cases(shoal, demo_model, tmp_path, capsys):
    # The demo model stands in for both shapes: it has layers to split and experts to spread.
    for shape in "AB":
        (tmp_path / f"shape-{shape}-4bit-g64").symlink_to(demo_model)
    assert table.main(["--quick", "--shoal", str(shoal), "--cache", str(tmp_path)]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "<!-- begin: bench/table.py -->" in out
    for text in ("| A | 1 x 2 | prefill 512 |", "layers as planned", "decode at 32, 8 streams in 2 steps", "| B | 2 x 1, experts over both |",
                 "| gate_up |", "per layer", "B: second start from the packed cache"):
        assert text in out
