"""What operators watch: the dashboard and the alert rules name metrics that there are, and the rules do what they say."""
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dialogue import QUESTIONS, ask, client_of

SOURCE = Path(__file__).resolve().parents[2]
RULES = SOURCE / "deploy/prometheus/shoal.rules.yml"
DASHBOARD = SOURCE / "deploy/grafana/shoal.json"
METRIC = re.compile(r"\bshoal_[a-z0-9_]+")
ENDINGS = ("_bucket", "_sum", "_count")
# Of things that a cluster may lack: they have no value before there is one. src/api/metrics_test.cpp sees them all.
OPTIONAL = {"shoal_outbox_messages_total", "shoal_link_rtt_seconds"}


@pytest.fixture(scope="session")
def promtool():
    unpacked = SOURCE / "build/promtool/usr/bin/promtool"
    path = unpacked if unpacked.exists() else shutil.which("promtool")
    if path is None:
        pytest.skip("there is no promtool: ./dev setup unpacks Debian's")
    return lambda *words: subprocess.run([path, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


def expressions():
    """All of the dashboard, by the titles of their panels."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def base_name(metric):
    """That of a histogram without what stands behind it."""
    ending = next((ending for ending in ENDINGS if metric.endswith(ending)), "")
    return metric.removesuffix(ending)


def documented():
    rows = re.findall(r"^\| `(shoal_\w+)` \| (?:counter|gauge|histogram) \|", (SOURCE / "docs/operations.md").read_text(), re.M)
    return set(rows)


def named():
    texts = [RULES.read_text(), *(expression for _, expression in expressions())]
    return {base_name(metric) for text in texts for metric in METRIC.findall(text)}


def test_dashboard_and_alerts_name_metrics_of_a_running_cluster(trio):
    ask(client_of(trio), QUESTIONS[0], max_tokens=4)
    there = {base_name(re.match(r"\w+", sample)[0]) for sample in trio.metrics()}
    assert len(named()) > 30, "the expressions were found"
    assert named() <= there | OPTIONAL, named() - there
    assert OPTIONAL <= documented()
    assert there <= documented(), there - documented()


def test_links_between_workers_and_nodes_are_seen_from_the_coordinator(trio):
    ask(client_of(trio), QUESTIONS[0], max_tokens=4)
    metrics = trio.metrics()
    assert metrics['shoal_link_bytes_total{from="worker-1",to="worker-2"}'] > 0  # A hop that the coordinator has no part in.
    assert {metrics[f'shoal_node_up{{node="{node}"}}'] for node in ("coordinator", "worker-1", "worker-2")} == {1}
    assert metrics["shoal_step_transit_seconds_sum"] > 0
    assert metrics['shoal_cluster_events_total{kind="session"}'] >= 1


def test_the_alert_rules_are_sound_and_do_what_their_tests_say(promtool):
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", RULES.with_name("shoal.rules.test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tests = RULES.with_name("shoal.rules.test.yml").read_text()
    assert alerts and all(alert in tests for alert in alerts), "each alert has a test"


def test_the_dashboard_asks_what_prometheus_understands(promtool, tmp_path):
    rules = [{"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "5m")}
             for i, (_, expression) in enumerate(expressions())]
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML, too.
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


@pytest.mark.parametrize("flags, flag", [(("--webhook", "ftp://host/hidden"), "--webhook"),
                                         (("--webhook", "https://me:hidden@host/"), "--webhook"),
                                         (("--otlp-endpoint", "localhost:4317/hidden"), "--otlp-endpoint")])
def test_a_url_that_is_none_is_refused_at_the_start_and_not_repeated(run, demo_model, flags, flag):
    done = run("serve", "--port", 0, "--model", demo_model, *flags)
    assert done.returncode == 2 and flag in done.stderr and "expected http" in done.stderr, done.stderr
    assert "hidden" not in done.stdout + done.stderr
