"""bench/against_peers.py on recorded output of the programs, and on programs that are missing, fail, or omit a row."""
import json
import statistics

import against_peers as bench
import pytest
import report
from against_peers import BenchError, Row

DECODE = Row("A", "decode", 2, 32)
PREFILL = Row("A", "prefill", 2, 512)
BATCHED = Row("A", "batched", 2, 32, 16)

# llama-bench 0c1e57098 -t 2 -o json: -p 512 -n 0, and -p 0 -n 64 -d 32; only the fields that are read, in their order.
LLAMA_PREFILL = """[
  {
    "build_commit": "0c1e57098",
    "build_number": 0,
    "model_type": "qwen3 1.7B Q4_0",
    "n_threads": 2,
    "flash_attn": 1,
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "avg_ns": 7779266072,
    "avg_ts": 65.815977,
    "samples_ts": [ 65.816 ]
  }
]
"""
LLAMA_DECODE = """[
  {
    "build_commit": "0c1e57098",
    "model_type": "qwen3 1.7B Q4_0",
    "n_threads": 2,
    "n_prompt": 0,
    "n_gen": 64,
    "n_depth": 32,
    "avg_ts": 20.227215,
    "samples_ts": [ 20.2272 ]
  }
]
"""
# llama-batched-bench 0c1e57098 -npp 32 -ntg 32 -npl 16
LLAMA_BATCHED = """
llama_batched_bench: n_kv_max = 4096, n_batch = 2048, n_ubatch = 512, flash_attn = 1, n_threads = 2, n_threads_batch = 2

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    32 |     32 |   16 |   1024 |    7.105 |    72.06 |   10.410 |    49.19 |   17.515 |    58.46 |

"""
DLLAMA = """🧠 CPU: avx2 avx512f
💿 Weights loaded
eszycidpyopumzgdpamntyyawoixzhsdk
🔷️ Eval 1144 ms Sync    0 ms | Sent     0 kB Recv     0 kB | (32 tokens)
🔶 Pred   97 ms Sync    0 ms | Sent     0 kB Recv     0 kB | <tok145099>

Evaluation
   nBatches: 32
    nTokens: 32
   tokens/s: 27.96 (35.76 ms/tok)
Prediction
    nTokens: 64
   tokens/s: 10.31 (96.96 ms/tok)
"""


def ours(*results):
    return json.dumps({"machine": {}, "bounds": {}, "results": list(results)})


# A result of `shoal bench --json`, with the fields that are read.
def decoded(batch, median, context=32, threads=2):
    return {"what": "decode", "threads": threads, "batch": batch, "prompt": None, "context": context,
            "tokens_per_s": {"median": median, "min": median - 1, "max": median + 1, "runs": 3},
            "share_of_bound": 0.75, "bound": "read", "share_of_bound_per_phase": 0.875}


def prefilled(prompt, median):
    return {**decoded(1, median), "what": "prefill", "prompt": prompt, "context": None, "bound": "multiply"}


def llama(form="q4_0", programs=("bench", "batched")):
    return bench.Llama("llama.cpp", form, programs, {"A": "a.gguf"})


def dllama():
    return bench.DistributedLlama("q40", "dllama", "dummy.t", {"A": "a.m"})


def program(path, text, status=0, to="stdout"):
    """An executable that prints `text` and exits with `status`."""
    path.write_text(f"#!/bin/sh\ncat {'>&2 ' if to == 'stderr' else ''}<<'END'\n{text}\nEND\nexit {status}\n")
    path.chmod(0o755)
    return path


# ---- Output of the programs ----


def test_rates_are_read_from_each_programs_own_output():
    shoal = bench.Shoal("shoal", {"A": "a"})
    mixed = ours(prefilled(512, 300.0), decoded(16, 92.5), decoded(1, 29.5), decoded(1, 28.5, context=8192))
    assert shoal.parse(BATCHED, mixed) == 92.5
    assert shoal.parse(DECODE, mixed) == 29.5
    assert shoal.parse(PREFILL, mixed) == 300.0
    assert shoal.shares == {BATCHED: [(75.0, "read", 87.5)], DECODE: [(75.0, "read", 87.5)], PREFILL: [(75.0, "multiply", 87.5)]}
    assert llama().parse_bench(PREFILL, LLAMA_PREFILL) == 65.815977
    assert llama().parse_bench(DECODE, LLAMA_DECODE) == 20.227215
    assert llama().parse_batched(BATCHED, LLAMA_BATCHED) == 49.19  # S_TG, neither S_PP nor S
    assert dllama().parse(DECODE, DLLAMA) == 10.31
    assert dllama().parse(Row("A", "prefill", 2, 32), DLLAMA) == 27.96


def test_a_peer_is_named_with_the_commit_that_it_prints():
    contender = llama()
    contender.parse_bench(PREFILL, LLAMA_PREFILL)
    assert contender.name == "llama.cpp q4_0"
    assert contender.version == "0c1e57098"


@pytest.mark.parametrize("row", [Row("A", "prefill", 2, 2048), Row("A", "prefill", 1, 512), DECODE], ids=str)
def test_a_row_that_llama_bench_omits_is_an_error_that_lists_the_others(row):
    with pytest.raises(BenchError, match=r"llama.cpp q4_0: expected one result with .*found 0 among .*'n_threads': 2"):
        llama().parse_bench(row, LLAMA_PREFILL)


def test_a_row_that_the_batched_bench_omits_is_an_error_that_lists_the_others():
    with pytest.raises(BenchError, match=r"PP, TG, B = \['32', '32', '64'\], found 0 among \[\['32', '32', '16'\]\]"):
        llama().parse_batched(Row("A", "batched", 2, 32, 64), LLAMA_BATCHED)


def test_a_row_that_shoal_bench_omits_or_repeats_is_an_error():
    shoal = bench.Shoal("shoal", {"A": "a"})
    with pytest.raises(BenchError, match="shoal: expected one result with .*'batch': 16.* found 0 among"):
        shoal.parse(BATCHED, ours(decoded(1, 29.5)))
    with pytest.raises(BenchError, match="found 0 among .*'context': 64"):
        shoal.parse(DECODE, ours(decoded(1, 29.5, context=64)))
    with pytest.raises(BenchError, match="found 2 among"):
        shoal.parse(DECODE, ours(decoded(1, 29.5), decoded(1, 30.5)))
    with pytest.raises(BenchError, match="expected 'share_of_bound' in"):
        shoal.parse(DECODE, ours({key: value for key, value in decoded(1, 29.5).items() if key != "share_of_bound"}))


def test_distributed_llama_that_evaluated_another_prompt_is_an_error():
    with pytest.raises(BenchError, match="expected 512 tokens under 'Evaluation', got 32"):
        dllama().parse(PREFILL, DLLAMA)
    with pytest.raises(BenchError, match="expected 'Prediction' with nTokens"):
        dllama().parse(DECODE, DLLAMA.split("Prediction")[0])


@pytest.mark.parametrize("value", ["0.000000", '"fast"', "null", "true", "NaN", "Infinity"])
def test_a_rate_that_is_not_a_positive_number_is_an_error(value):
    with pytest.raises(BenchError, match="expected tokens per second above 0"):
        llama().parse_bench(PREFILL, LLAMA_PREFILL.replace("65.815977", value))


@pytest.mark.parametrize("text", ["", "error: cannot open model", "[", LLAMA_PREFILL[:-4]])
def test_output_that_is_not_json_is_an_error_that_shows_it(text):
    with pytest.raises(BenchError, match="llama.cpp q4_0: expected JSON, got"):
        llama().parse_bench(PREFILL, text)


@pytest.mark.parametrize("text", ["{}", "[1]", "[]", "null"])
def test_json_of_another_form_is_an_error(text):
    with pytest.raises(BenchError, match="expected"):
        llama().parse_bench(PREFILL, text)
    with pytest.raises(BenchError, match="expected an object with 'results'"):
        bench.Shoal("shoal", {"A": "a"}).parse(DECODE, text)


# ---- Command lines of the programs ----


def test_every_side_decodes_behind_the_same_prompt():
    fork = bench.Llama("ik_llama.cpp", "q4_0", ("bench", None), {"A": "a.gguf"})
    words = {name: " ".join(map(str, contender.command(DECODE))) for name, contender in
             {"shoal": bench.Shoal("shoal", {"A": "a"}), "llama": llama(), "ik": fork, "dllama": dllama()}.items()}
    assert "--prompt 1 --gen 64 --batch 1" in words["shoal"]  # the context that parse() requires
    assert "-p 0 -n 64 -d 32" in words["llama"]
    assert "-p 0 -n 0 -gp 32,64" in words["ik"]
    assert "--steps 96" in words["dllama"]
    prompt = dllama().command(DECODE)[dllama().command(DECODE).index("--prompt") + 1]
    assert len(prompt) == 32 + 1  # the last one is the first input of decoding


def test_llama_cpp_runs_k_quants_as_the_file_has_them():
    assert "--repack" not in llama("q4_0").command(PREFILL)
    assert llama("q4_k").command(PREFILL)[-2:] == ["--repack", "0"]
    assert llama("q4_k").command(BATCHED)[-1] == "--no-repack"


def test_a_peer_runs_only_the_rows_that_it_has_a_model_and_a_program_for():
    assert not llama(programs=("bench", None)).can(BATCHED)
    assert llama(programs=("bench", None)).can(DECODE)
    assert not llama().can(Row("B", "decode", 2, 32))
    assert not dllama().can(BATCHED)


# ---- Ratios ----


class Told:
    """A contender with given rates."""
    options = ()
    version = "1"

    def __init__(self, name, rates, log=None):
        self.name, self.rates, self.log, self.shares = name, iter(rates), log, {}

    def can(self, row):
        return row == DECODE

    def measure(self, row):
        if self.log is not None:
            self.log.append(self.name)
        return next(self.rates)


def test_contenders_are_measured_in_turns():
    log = []
    rates = bench.measure_row(DECODE, [Told("shoal", [3, 4], log), Told("x", [1, 2], log), Told("y", [5, 6], log)], rounds=2)
    assert log == ["shoal", "x", "y"] * 2
    assert rates == {"shoal": [3, 4], "x": [1, 2], "y": [5, 6]}


def test_the_ratio_is_taken_round_by_round_against_the_peer_with_the_best_median():
    # x is best once and worst twice. The machine runs at half speed in the last round, for both sides.
    rates = {"shoal": [30.0, 33.0, 14.0], "x": [40.0, 5.0, 5.0], "y": [20.0, 22.0, 10.0]}
    assert bench.best_peer(rates, "shoal") == "y"
    assert bench.ratios(rates, "shoal") == [1.5, 1.5, 1.4]
    assert statistics.median(rates["shoal"]) / statistics.median(rates["y"]) == 1.5
    assert bench.ratios({"shoal": [30.0]}, "shoal") == []


def test_ours_with_other_kernels_is_no_peer():
    assert bench.best_peer({"shoal": [30.0], "shoal, best": [50.0], "x": [20.0]}, "shoal") == "x"
    assert bench.best_peer({"shoal": [30.0], "shoal, best": [50.0]}, "shoal") is None


def test_the_table_names_the_best_peer_of_each_row_and_the_target():
    contenders = [Told("shoal", []), Told("x", []), Told("y", [])]
    contenders[0].shares = {DECODE: [(80.4, "read", 85.4), (70.2, "multiply", 70.2), (90.0, "read", 91.0)]}
    results = [(DECODE, {"shoal": [30.0, 33.0], "x": [20.0, 22.0], "y": [10.0, 10.0]}),
               (Row("A", "batched", 2, 32, 64), {"shoal": [90.0, 92.0], "y": [45.0, 46.0]}),
               (Row("A", "prefill", 2, 512), {"shoal": [150.0, 160.0]})]
    lines = bench.table(results, contenders, rounds=2, isa="", load=0.25).splitlines()
    assert lines[-3] == ("| A | decode | 2 | 31.5 (30.0-33.0) | **21.0 (20.0-22.0)** | 10.0 (10.0-10.0) | "
                         "1.50 (1.50-1.50) | 1.15 | 80 % of read, 85 % per phase |")
    assert lines[-2] == ("| A | decode, 64 streams | 2 | 91.0 (90.0-92.0) | - | **45.5 (45.0-46.0)** | "
                         "2.00 (2.00-2.00) | - | - |")
    assert lines[-1] == "| A | prefill 512 | 2 | 155.0 (150.0-160.0) | - | - | - | 1.8 | - |"
    assert "load 0.2 at the start" in lines[0]
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {10}


def test_every_target_is_a_row_that_is_measured():
    measured = {row for name in ("A", "B") for row in bench.rows_of(name)}
    assert set(bench.TARGETS) <= measured
    assert set(bench.NARROW_TARGETS) <= measured


def test_amx_moves_only_the_targets_of_prefill():
    assert bench.target(PREFILL, "amx") == 3.5
    assert bench.target(PREFILL, "avx512") == 1.8
    assert bench.target(DECODE, "amx") == 1.15
    assert bench.target(Row("A", "batched", 2, 32, 4), "") is None


def test_narrow_kernels_have_targets_of_their_own():
    assert bench.target(PREFILL, "avx2") == 2.0
    assert bench.target(Row("B", "batched", 2, 32, 4), "avx-vnni") == 1.3
    assert bench.target(Row("B", "decode", 2, 32), "avx2") is None


# ---- The whole driver, with fake programs ----


@pytest.fixture
def parts(tmp_path):
    """Flags of a comparison in which each program prints its recorded output for row DECODE."""
    (tmp_path / "model").mkdir()
    (tmp_path / "a.gguf").touch()
    shoal = program(tmp_path / "shoal", ours(prefilled(1, 20.0), decoded(1, 30.341)))
    peer = program(tmp_path / "llama-bench", LLAMA_DECODE)
    return {"--shoal": shoal, "--model": f"A={tmp_path / 'model'}", "--llama-bench": peer,
            "--llama-model": f"A:q4_0={tmp_path / 'a.gguf'}", "--rounds": 2, "--rows": "^A: decode, 2 threads"}


def words(flags):
    return [str(word) for pair in flags.items() for word in pair]


def test_a_comparison_from_flags_to_table(parts, capsys):
    assert bench.main(words(parts)) == 0
    out = capsys.readouterr().out
    assert "| A | decode | 2 | 30.3 (30.3-30.3) | **20.2 (20.2-20.2)** | 1.50 (1.50-1.50) | 1.15 | 75 % of read, 88 % per phase |" in out
    assert "llama.cpp q4_0: 0c1e57098, `-fa on`" in out
    assert out.strip().endswith("<!-- end: bench/against_peers.py -->")


def test_other_kernels_of_ours_stand_beside(parts, capsys):
    assert bench.main(words({**parts, "--isa": "avx2", "--beside": "best"})) == 0
    out = capsys.readouterr().out
    assert "| model | what | threads | shoal | shoal, best | llama.cpp q4_0 | ratio | target | bound |" in out
    assert "| 30.3 (30.3-30.3) | 30.3 (30.3-30.3) | **20.2 (20.2-20.2)** | 1.50 (1.50-1.50) | 1.3 |" in out


def test_no_peer_named_is_nothing_to_do(parts, capsys):
    assert bench.main(["--shoal", str(parts["--shoal"]), "--model", parts["--model"]]) == 0
    assert "no peer named" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "value", "said"), [
    ("--llama-bench", "/nowhere/llama-bench", "--llama-bench /nowhere/llama-bench: no such program"),
    ("--shoal", "/nowhere/shoal", "--shoal /nowhere/shoal: no such program"),
    ("--llama-model", "A:q4_0=/nowhere/a.gguf", "--llama-model A=/nowhere/a.gguf: not there"),
    ("--llama-model", "a.gguf", "expected NAME=PATH or NAME:FORMAT=PATH"),
    ("--ik-bench", "/bin/true", "--ik-model and a program of that peer: expected both or neither"),
    ("--rounds", "0", "--rounds 0: expected 1 or more"),
    ("--rows", "C: decode", "--rows 'C: decode' matches none of"),
])
def test_wrong_flags_are_reported_before_anything_runs(parts, capsys, flag, value, said):
    with pytest.raises(SystemExit) as ended:
        bench.main(words({**parts, flag: value}))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "..." not in captured.out  # no row was started


def test_a_peer_that_fails_is_named_with_its_output(parts, capsys):
    program(parts["--llama-bench"], "llama_bench: error: failed to load model", status=1, to="stderr")
    assert bench.main(words(parts)) == 1
    captured = capsys.readouterr()
    assert "llama.cpp q4_0: exit status 1 from" in captured.err
    assert "llama_bench: error: failed to load model" in captured.err
    assert "begin:" not in captured.out


def test_a_peer_without_the_row_is_named(parts, capsys):
    program(parts["--llama-bench"], LLAMA_PREFILL)
    assert bench.main(words(parts)) == 1
    assert "llama.cpp q4_0: expected one result with" in capsys.readouterr().err


def test_a_program_that_cannot_be_executed_is_named(tmp_path):
    path = tmp_path / "broken"
    path.write_text("not a program")
    path.chmod(0o755)
    with pytest.raises(BenchError, match="x: .*broken cannot be run: "):
        bench.run("x", [path])


def test_a_program_that_hangs_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RUN_LIMIT_S", 0.2)
    path = tmp_path / "hangs"
    path.write_text("#!/bin/sh\nexec sleep 30\n")
    path.chmod(0o755)
    with pytest.raises(BenchError, match="x: no end after 0.2 s: .*hangs"):
        bench.run("x", [path])


def test_programs_run_in_a_temporary_folder_and_relative_paths_still_work(parts, tmp_path, monkeypatch):
    """ik_llama.cpp writes llama.log to its working folder."""
    monkeypatch.chdir(tmp_path)
    peer = parts["--llama-bench"]
    peer.write_text(peer.read_text().replace("cat", 'touch llama.log; [ -e "$2" ] || exit 1; cat'))
    relative = {"--shoal": "shoal", "--model": "A=model", "--llama-bench": "./llama-bench", "--llama-model": "A:q4_0=a.gguf"}
    assert bench.main(words({**parts, **relative})) == 0
    assert not (tmp_path / "llama.log").exists()


# ---- The page ----


def test_a_table_replaces_what_its_driver_wrote_and_nothing_else(tmp_path):
    begin, end = report.markers("x.py")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    report.write_section("x.py", "new", page)
    report.write_section("x.py", "newer", page)
    assert page.read_text() == f"before\n{begin}\nnewer\n{end}\nafter\n"


def test_prose_of_a_section_is_wrapped_and_tables_are_not(tmp_path):
    begin, end = report.markers("x.py")
    page = tmp_path / "page.md"
    page.write_text(f"{begin}\n{end}\n")
    row = f"| {'cell ' * 40}|"
    report.write_section("x.py", f"{'word ' * 40}\n\n{row}", page)
    lines = page.read_text().split("\n")
    assert row in lines
    assert "" in lines
    assert " ".join(line for line in lines if line.startswith("word")).split() == ["word"] * 40
    assert max(len(line) for line in lines if line != row) <= report.PAGE_COLUMNS


@pytest.mark.parametrize("text", ["", "{end}\n{begin}\n", "{begin}\n{begin}\n{end}\n", "{begin}\n"])
def test_a_page_without_a_place_for_the_table_is_refused_and_left_alone(tmp_path, text):
    begin, end = report.markers("x.py")
    page = tmp_path / "page.md"
    page.write_text(text.format(begin=begin, end=end))
    with pytest.raises(ValueError, match="expected one '<!-- begin: bench/x.py -->'"):
        report.write_section("x.py", "new", page)
    assert page.read_text() == text.format(begin=begin, end=end)


@pytest.mark.parametrize("driver", ["against_peers.py", "end_to_end.py"])
def test_the_page_has_a_place_for_each_driver(driver):
    begin, end = report.markers(driver)
    page = report.PAGE.read_text()
    assert page.count(begin) == 1
    assert page.count(end) == 1
