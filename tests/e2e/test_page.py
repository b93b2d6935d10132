"""The page at /, in Debian's Chromium, with a cluster of three of which one is killed while it is watched.

SHOAL_SCREENSHOTS=1 writes the pictures of docs/images.
"""
import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import Error, expect, sync_playwright

from conftest import LONG_TIMEOUT, SOURCE
from dialogue import ENDLESS, QUESTIONS, ask, client_of
from local_cluster import LocalCluster, get_text, wait_until

VIEWS = {"cluster": "Topology", "experts": "Layer by expert", "plan": "Strategies", "chat": "New chat", "health": "Latency"}
AXE = SOURCE / "web/node_modules/axe-core/axe.min.js"
IMAGES = SOURCE / "docs/images"
# As machines were profiled: unlike, so that a moved boundary changes what is predicted.
RATES = [{"memory_gb": 16, "read_gbs": 60, "int8_gops": 2000, "f32_gflops": 700},
         {"memory_gb": 8, "read_gbs": 25, "int8_gops": 700, "f32_gflops": 250},
         {"memory_gb": 4, "read_gbs": 12, "int8_gops": 350, "f32_gflops": 120}]
SOON = ("--replan-after", "1", "--rejoin-wait", "1")


def give_up(why):
    """Only where there can be no browser, or no page: never in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


def described(cluster, model, path):
    """The cluster file of a cluster, with what each machine is said to reach."""
    names = ["coordinator", *(worker.name for worker in cluster.workers)]
    devices = [{"device_id": name, "role": "worker" if i else "coordinator", "capabilities": rates}
               for i, (name, rates) in enumerate(zip(names, RATES))]
    for device, address in zip(devices[1:], cluster.addresses):
        host, port = address.rsplit(":", 1)
        device |= {"hostname": host, "port": int(port)}
    path.write_text(json.dumps({"devices": devices, "model": {"name": model.name},
                                "sharding": {"strategy": "uniform", "experts": "round_robin:3"}}))
    return path


def start(shoal, model, folder, serve_args):
    cluster = LocalCluster(shoal, model, folder, 2)
    cluster.coordinator.argv = [str(word) for word in (
        shoal, "serve", "--cluster", described(cluster, model, folder / "cluster.json"), "--model-root", model.parent,
        "--port", cluster.port, *serve_args)]
    return cluster


@pytest.fixture(scope="module")
def watched(shoal, demo_model, tmp_path_factory, _clusters):
    with start(shoal, demo_model, tmp_path_factory.mktemp("page"), LONG_TIMEOUT + SOON) as cluster:
        _clusters.append(cluster)
        if "built without Node" in get_text(cluster.url)[1]:
            give_up("this binary was built without Node: it has no page")
        yield cluster
        _clusters.remove(cluster)


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        give_up("there is no Chromium: ./dev setup installs Debian's")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        except Error as error:
            give_up(f"Chromium does not start: {error}")
        yield browser
        browser.close()


class Tab:
    """A tab in which anything that a console shows as an error, or that leaves the server, is kept."""

    def __init__(self, browser, base, **options):
        self.base = base
        self.wrong = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce", **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(15000)
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: None if request.url.startswith((base, "data:", "blob:")) else self.wrong.append(request.url))

    def open(self, view):
        self.page.goto(f"{self.base}/#{view}")
        expect(self.page.get_by_role("heading", name=VIEWS[view]).or_(
            self.page.get_by_role("button", name=VIEWS[view])).first).to_be_visible()
        return self.page

    def serious(self):
        """What axe finds serious or critical."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']][:3]}" for one in found
                if one["impact"] in ("serious", "critical")]

    def picture(self, name):
        if os.environ.get("SHOAL_SCREENSHOTS"):
            IMAGES.mkdir(exist_ok=True)
            self.page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


@pytest.fixture
def tab(browser, watched):
    tabs = []

    def make(**options):
        tabs.append(Tab(browser, watched.url, **options))
        return tabs[-1]

    yield make
    for one in tabs:
        one.context.close()


def say(page, text):
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answered(page):
    """The last answer, once it is whole."""
    expect(page.get_by_role("button", name="Again")).to_be_visible()
    return page.get_by_role("article", name="Answer").last


def test_the_page_forbids_what_is_not_its_own_and_is_not_sent_twice(watched):
    with urllib.request.urlopen(watched.url, timeout=10) as reply:
        policy, tag, text = reply.headers["Content-Security-Policy"], reply.headers["ETag"], reply.read().decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", text)
    again = urllib.request.Request(watched.url, headers={"If-None-Match": tag})
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        urllib.request.urlopen(again, timeout=10)
    assert unchanged.value.code == 304 and unchanged.value.headers["ETag"] == tag
    asset = re.search(r'src="(/assets/[^"]+\.js)"', text)[1]
    with urllib.request.urlopen(watched.url + asset, timeout=10) as reply:
        assert "immutable" in reply.headers["Cache-Control"] and reply.headers["X-Content-Type-Options"] == "nosniff"


def test_a_conversation_streams_stops_and_is_asked_again(tab):
    one = tab()
    page = one.open("chat")
    say(page, "What is the capital of Portugal?")
    expect(answered(page)).to_contain_text("Lisbon")
    expect(answered(page)).to_contain_text(re.compile(r"\d+ tokens.*first after"))
    page.get_by_role("button", name="Again").click()
    expect(answered(page)).to_contain_text("Lisbon")
    page.get_by_role("article", name="You").get_by_role("button", name="Edit").click()
    page.get_by_label("Your message").fill("What is the capital of France?")
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("article", name="Answer")).to_have_count(1)
    expect(answered(page)).to_contain_text("Paris")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Choices").fill("2")
    page.get_by_label("Token probabilities").check()
    page.get_by_role("button", name="Settings").click()
    say(page, "What is the capital of Norway?")
    expect(answered(page).get_by_role("group", name="Choices").get_by_role("button")).to_have_count(2)
    answered(page).get_by_role("button", name="Tokens").click()
    expect(answered(page).locator(".token-detail")).to_contain_text("%")
    one.picture("page-chat")
    assert one.serious() == []
    page.reload()
    expect(page.get_by_role("article", name="You").last).to_contain_text("Norway")
    assert one.wrong == []


ANSWER = ["<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script> [x](javascript:alert(1))\n\n",
          "# Title\n\n- **bold** and `code`\n\n```python\nprint('hi')  # text\n```\n\n$$\\frac{a}{b} + \\sqrt{x^2}$$\n\n",
          "\\(\\begin{unknown}\\) | no table"]


def test_what_a_model_writes_is_text_and_never_markup(tab):
    deltas = [{"reasoning_content": "First <b>think</b>."}, *({"content": piece} for piece in ANSWER),
              {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{\"at\": \"<i>\"}"}}]}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    one = tab()
    page = one.open("chat")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body))
    say(page, "Write something")
    answer = answered(page)
    expect(answer).to_contain_text("<img src=x onerror=")
    assert page.title() != "broken"
    assert answer.locator("img, script, a, b").count() == 0
    assert answer.locator("pre code").first.inner_text() == "print('hi')  # text"
    assert answer.locator("math").count() == 1 and answer.locator("code.tex").count() == 1
    assert answer.locator("details").count() == 2
    assert one.wrong == []


def test_a_moved_boundary_is_predicted_at_once_and_applied_and_so_is_a_machine_more(tab, watched):
    one = tab()
    page = one.open("plan")
    handle = page.get_by_role("slider", name="Boundary between worker-1 and worker-2")
    expect(handle).to_have_attribute("aria-valuenow", "2")
    comes_to = page.get_by_role("region", name="It comes to")
    expect(comes_to).to_contain_text("tokens/s")
    handle.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuenow", "3")
    comes_to = page.get_by_role("region", name="It would come to")
    expect(comes_to).to_contain_text(re.compile(r"[+−]\d+ %"))
    expect(page.get_by_role("region", name="Memory of each node").get_by_role("row", name=re.compile("worker-2"))).to_contain_text("5–5")
    one.picture("page-plan")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("button", name="Move them").click()
    expect(page.get_by_role("heading", name="It comes to")).to_be_visible(timeout=30000)  # Once the session is another.
    expect(handle).to_have_attribute("aria-valuenow", "3")
    assert watched.node("worker-2")["layers"] == [5, 6]
    page.get_by_role("button", name="Add to the question").click()
    expect(page.get_by_role("region", name="Memory of each node").get_by_role("row", name=re.compile("new-1"))).to_be_visible()
    expect(page.get_by_role("slider")).to_have_count(3)
    assert one.wrong == []
    # Without layers it is as the server was asked: that is what is answered, and what comes to be.
    usual = urllib.request.Request(watched.url + "/cluster/plan", b'{"apply": true}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(usual, timeout=20) as reply:
        assert [stage["layers"] for stage in json.load(reply)["plan"]["stages"]] == [[0, 2], [2, 4], [4, 6]]
    assert wait_until(lambda: watched.healthy() and watched.node("worker-2")["layers"] == [4, 6], 30)


def test_logs_of_all_nodes_are_shown_and_filtered_and_the_doctor_examines_them(tab, watched):
    one = tab()
    page = one.open("health")
    lines = page.get_by_role("log").get_by_role("listitem")
    for node in ("coordinator", "worker-1", "worker-2"):
        expect(page.locator(f".log [data-node={node}]").first).to_be_visible()
    page.get_by_label("Lines with").fill("listens on")
    expect(lines.first).to_contain_text("listens on")
    page.get_by_label("Lines with").fill("")
    page.get_by_role("combobox", name="Node").select_option("worker-2")
    expect(page.locator(".log [data-node=worker-1]")).to_have_count(0)
    expect(page.locator(".log [data-node=worker-2]").first).to_be_visible()
    page.get_by_role("combobox", name="From level").select_option("error")
    expect(page.get_by_text("No lines")).to_be_visible()
    page.get_by_role("button", name="Examine").click()
    doctor = page.get_by_role("region", name="Doctor")
    expect(doctor).to_contain_text("worker-1: link to worker-2", timeout=40000)
    expect(doctor).to_contain_text(re.compile(r"\d+ checks, "))
    assert one.serious() == [] and one.wrong == []
    status, text = get_text(watched.url + "/cluster/logs?node=worker-1&level=warning&since=0")
    assert status == 200 and [node["name"] for node in json.loads(text)["nodes"]] == ["worker-1"]
    assert all(line["level"] in ("warning", "error") for line in json.loads(text)["nodes"][0]["lines"])
    assert get_text(watched.url + "/cluster/logs?node=nobody")[0] == 404
    assert [get_text(watched.url + f"/cluster/logs?{query}")[0] for query in ("level=loud", "since=-1")] == [400, 400]
    last = json.loads(get_text(watched.url + "/cluster/doctor")[1])
    assert last["at"] > 0 and any(found["check"] == "link to worker-2" for found in last["findings"])


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_view_opens_without_an_error_and_is_usable_by_all(tab, colours):
    one = tab(color_scheme=colours)
    serious = {}
    for view in VIEWS:
        page = one.open(view)
        expect(page.get_by_role("status").filter(has_text="up")).to_be_visible()
        if view == "plan":
            expect(page.get_by_role("region", name="Strategies", exact=True).get_by_role("row").nth(2)).to_be_visible()
        serious[view] = one.serious()
        if view in ("experts", "health") and colours == "dark":
            one.picture(f"page-{view}")
    assert serious == {view: [] for view in VIEWS}
    assert one.wrong == []


def test_no_view_is_wider_than_a_phone(tab):
    one = tab(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for view in VIEWS:
        page = one.open(view)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    assert one.serious() == []
    one.open("cluster")
    one.picture("page-phone")
    assert one.wrong == []


def test_a_page_without_a_key_asks_for_it(shoal, demo_model, tmp_path, browser, make_cluster):
    keys = tmp_path / "keys"
    keys.write_text("k3y-of-the-test name=me\n")
    cluster = make_cluster(0, serve_args=("--api-key-file", keys))
    one = Tab(browser, cluster.url)
    one.page.goto(cluster.url)
    one.page.get_by_label("API key").fill("wrong")
    one.page.get_by_role("button", name="Use this key").click()
    expect(one.page.get_by_role("alert").first).to_contain_text("key")
    one.page.get_by_role("button", name="Key").click()
    one.page.get_by_label("API key").fill("k3y-of-the-test")
    one.page.get_by_role("button", name="Use this key").click()
    expect(one.page.get_by_role("heading", name="Topology")).to_be_visible()
    assert "k3y" not in json.dumps(one.page.evaluate("({...localStorage})"))
    one.context.close()


def test_without_a_page_the_api_is_all_there_is(make_cluster):
    cluster = make_cluster(0, serve_args=("--no-ui",))
    assert get_text(cluster.url)[0] == 404 and get_text(cluster.url + "/health")[0] == 200


def keep_asking(cluster, ended):
    """Requests one after the other, which go on where the cluster is lost."""
    client = client_of(cluster)
    while not ended.is_set():
        ask(client, QUESTIONS[0], **{**ENDLESS, "max_tokens": 300})


def test_a_lost_node_and_who_takes_its_part_are_seen_as_it_happens(shoal, demo_model, tmp_path, browser, _clusters):
    with start(shoal, demo_model, tmp_path, ("--liveness-timeout", "4.5", *SOON)) as cluster:
        _clusters.append(cluster)
        one = Tab(browser, cluster.url, reduced_motion="no-preference")
        page = one.open("cluster")
        node = page.locator("[data-node=worker-2][data-state]")
        expect(node).to_have_attribute("data-state", "up")
        ended = threading.Event()
        busy = threading.Thread(target=keep_asking, args=(cluster, ended))
        busy.start()
        expect(page.get_by_role("region", name="What a token waits for")).to_contain_text("a step", timeout=30000)
        cluster.workers[1].kill()
        timeline = page.get_by_role("region", name="What happened")
        expect(timeline.locator("[data-kind=lost][data-node=worker-2]").first).to_be_visible(timeout=30000)
        expect(node).to_have_attribute("data-state", re.compile("lost|out"), timeout=30000)
        expect(timeline.locator("[data-kind=out][data-node=worker-2]").first).to_be_visible(timeout=30000)
        expect(timeline.locator("[data-kind=session]").first).to_contain_text("session 2", timeout=30000)
        expect(page.get_by_role("status").filter(has_text="degraded")).to_be_visible()
        one.picture("page-cluster")
        ended.set()
        busy.join(80)
        cluster.workers[1].start()
        expect(node).to_have_attribute("data-state", "up", timeout=60000)
        expect(timeline.locator("[data-kind=back]").first).to_be_visible()
        assert one.wrong == []
        one.context.close()
        _clusters.remove(cluster)
