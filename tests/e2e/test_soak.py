"""A minute of bench/soak.py: processes fail at random under mixed load, and no answer changes. None asks how fast."""
import os

import pytest

import soak
from black_hole import BlackHole
from tester import TESTER


@pytest.fixture
def only_where_asked(request):
    """It takes longer than all others: .ci/run has it in each run, `./dev test` where its filter does, `./dev check soak` longer."""
    if os.environ.get("CI") != "true" and not request.config.getoption("--filter"):
        pytest.skip("runs where CI=true, and by ./dev test soak")


@pytest.fixture
def hole():
    if os.geteuid() != 0:
        yield None  # Nothing is swallowed then.
        return
    hole = BlackHole(7).open()
    yield hole
    hole.close()


@pytest.mark.timeout(900)
def test_a_minute_of_faults_at_random_changes_no_token_and_leaves_nothing(only_where_asked, shoal, demo_model, tmp_path, hole):
    flags = soak.parse(["--shoal", str(shoal), "--model", str(demo_model), "--seconds", "60", "--clients", "4",
                        "--seed", str(1 + TESTER)])
    report = soak.soak(flags, tmp_path / "logs", hole)
    assert report["problems"] == []
    assert report["changed"] == report["errors"] == report["blocks_leaked"] == 0
    # It was a soak: something was asked, and something went wrong meanwhile.
    assert report["answers"] > 0 and report["faults"]["restart coordinator"] > 0 and len(report["faults"]) > 3


def test_the_faults_of_a_seed_are_the_same_each_time_and_others_with_another():
    def planned(seed):
        return soak.schedule(soak.parse(["--seed", str(seed), "--seconds", "600"]), True)
    assert planned(1) == planned(1) != planned(2)
    kinds = {fault.kind for fault in planned(1)}
    assert kinds == {"stop shortly", "stop for long", "drain", "restart", "kill for a while", "end and start again", "swallow",
                     "swallow one way", "restart coordinator"}
    assert all(fault.kind in ("stop shortly", "stop for long", "drain") for fault in planned(1) if fault.worker == soak.NEVER_KILLED)


class NoFaults:
    def coordinator_was_down(self, since):
        return False

    def any_since(self, when):
        return False


@pytest.mark.parametrize("answer, expected", [
    ({"text": "as it was"}, (1, 0, 0)),
    ({"text": "otherwise"}, (1, 1, 0)),
    ({"status": 503}, (0, 0, 1)),
    ({"status": 500}, (0, 0, 1)),
    ({"broken": True}, (0, 0, 1)),
])
def test_what_is_changed_or_has_no_reason_is_told(answer, expected, monkeypatch):
    def ask(port, question, leave_after=None):
        if "text" in answer:
            return {0: (answer["text"], "stop", [], None)}
        if "broken" in answer:
            raise soak.Lost("reset by peer", {0: ("as it", None, [], None)})
        raise (soak.Refused if answer["status"] == 503 else RuntimeError)(str(answer["status"]))
    monkeypatch.setattr(soak, "ask", ask)
    question = soak.Question("x", {}, expected={0: ("as it was", "stop", [], None)})
    load = soak.Load(0, [question], NoFaults(), soak.parse([]))
    load.until_answered(question, None)
    assert (load.answered, len(load.changed), len(load.errors)) == expected


def test_what_grows_is_told():
    def sizes(mib, count):
        one = soak.Sizes(None, 0)
        one.samples = [{"at_s": at, "x": [1, 50 + mib * at / 3600, 20 + count * at / 3600]} for at in range(0, 3601, 10)]
        return list(soak.growth_problems(one, ["x"]))
    assert sizes(20, 10) == []
    assert len(sizes(100, 0)) == 1 and len(sizes(0, 100)) == 1
