"""The web page, in Chromium, by clicks: what people see and do, with queue names that would like to be scripts."""

import re
import socket
import time
from contextlib import contextmanager

import pika
import pytest
from harness.management import Api, q
from harness.servers import free_port, have
from playwright.sync_api import expect, sync_playwright

DEADLINE_MS = 60_000
HOSTILE = "<img src=x onerror=\"window.harm='yes'\"> & 'quoted' / ../%2F"


@pytest.fixture(scope="module")
def chromium():
    if not have("chromium"):
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


def reaches(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Page:
    """A tab with the page of a node, logged in."""

    def __init__(self, tab, port):
        self.tab = tab
        self.base = f"http://127.0.0.1:{port}/"
        self.problems = []
        tab.set_default_timeout(DEADLINE_MS)
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        tab.goto(self.base)

    def log_in(self, name="guest", password="guest"):
        self.tab.get_by_label("Name").fill(name)
        self.tab.get_by_label("Password").fill(password)
        self.tab.get_by_role("button", name="Log in").click()

    def open(self, where):
        self.tab.goto(f"{self.base}#/{where}")
        self.ready(where)

    def ready(self, where):
        expect(self.tab.locator("main")).to_have_attribute("data-ready", f"#/{where}", timeout=DEADLINE_MS)

    def menu(self, name):
        self.tab.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
        expect(self.tab.get_by_role("heading", level=1)).to_have_text(name)

    def unfold(self, title):
        """A form that is folded away."""
        summary = self.tab.locator("summary", has_text=re.compile(f"^{re.escape(title)}$"))
        summary.click()
        return self.tab.locator("details", has=summary)

    def says(self, text):
        expect(self.tab.get_by_role("status")).to_contain_text(text, timeout=DEADLINE_MS)

    def row(self, text):
        return self.tab.get_by_role("row").filter(has_text=text)

    def agree(self, verb):
        self.tab.get_by_role("dialog").get_by_role("button", name=verb).click()


@contextmanager
def opened(browser, port, **context):
    context = browser.new_context(viewport={"width": 1360, "height": 900}, locale="en-GB", reduced_motion="reduce", **context)
    try:
        yield Page(context.new_page(), port)
    finally:
        context.close()


@pytest.fixture
def page(chromium, managed, launch, pytestconfig):
    if pytestconfig.getoption("--server") != "leveret":
        pytest.skip("the page is Leveret's")
    with opened(chromium, managed.api.port) as page:
        page.log_in()
        page.ready("")
        yield page
        assert page.problems == []
        assert page.tab.evaluate("window.harm") is None


@pytest.fixture
def host(api, name):
    """A virtual host of the test's own, by its name."""
    assert api.put(f"/vhosts/{q(name)}").status == 201
    yield name
    api.delete(f"/vhosts/{q(name)}")


def test_whoever_has_no_password_stays_outside(chromium, managed, pytestconfig):
    if pytestconfig.getoption("--server") != "leveret":
        pytest.skip("the page is Leveret's")
    with opened(chromium, managed.api.port) as page:
        page.log_in("guest", "wrong")
        expect(page.tab.get_by_role("alert").filter(has_text="401")).to_be_visible()
        expect(page.tab.get_by_role("navigation", name="Pages")).to_be_hidden()
        page.log_in()
        page.ready("")
        # A password lives as long as the tab.
        page.tab.reload()
        page.ready("")
        page.tab.get_by_role("button", name="Log out").click()
        expect(page.tab.get_by_role("button", name="Log in")).to_be_visible()
        assert page.tab.evaluate("sessionStorage.length") == 0


def test_every_page_opens(page):
    for name in ("Connections", "Channels", "Exchanges", "Queues", "Cluster", "Policies", "Users", "Virtual hosts", "Definitions", "Overview"):
        page.menu(name)
    page.ready("")
    for tile in ("messages ready", "published", "connections"):
        expect(page.tab.locator(".tile", has_text=tile).first).to_be_visible()
    # Charts are read aloud, too.
    chart = page.tab.get_by_role("img", name=re.compile("Message rates: publish"))
    expect(chart).to_be_visible()


def test_a_queue_from_its_making_to_its_end(host, page, api):
    page.open("queues")
    form = page.unfold("Add a queue")
    form.get_by_label("Virtual host").select_option(host)
    form.get_by_label("Name").fill(HOSTILE)
    form.get_by_label("Arguments").fill("x-max-length = 10")
    form.get_by_role("button", name="Add queue").click()
    page.says("is there")
    assert api.get(f"/queues/{q(host)}/{q(HOSTILE)}").json["arguments"] == {"x-max-length": 10}
    page.tab.get_by_label("vhost", exact=True).select_option(host)
    page.row(HOSTILE).get_by_role("link").click()
    expect(page.tab.get_by_role("heading", level=1)).to_have_text(f"Queue {HOSTILE}")

    form = page.unfold("Bind this queue to an exchange")
    form.get_by_label("Exchange").fill("amq.topic")
    form.get_by_label("Routing key").fill("a.#")
    form.get_by_role("button", name="Bind").click()
    page.says("Bound")
    expect(page.row("amq.topic").get_by_role("cell", name="a.#")).to_be_visible()

    form = page.unfold("Publish a message")
    form.get_by_label("Payload").fill("<script>window.harm='yes'</script>")
    for _ in range(2):
        form.get_by_role("button", name="Publish").click()
        page.says("Published")
        page.tab.evaluate("document.getElementById('status').textContent = ''")
    form = page.unfold("Get messages")
    form.get_by_label("What becomes of them").select_option("ack_requeue_false")
    form.get_by_role("button", name="Get messages").click()
    expect(form.get_by_label("Payload")).to_have_text("<script>window.harm='yes'</script>")
    api.eventually(f"/queues/{q(host)}/{q(HOSTILE)}", lambda queue: queue.get("messages") == 1)

    page.tab.get_by_role("button", name="Purge", exact=True).click()
    page.agree("Cancel")
    page.tab.get_by_role("button", name="Purge", exact=True).click()
    page.agree("Purge it")
    page.says("Purged")
    api.eventually(f"/queues/{q(host)}/{q(HOSTILE)}", lambda queue: queue.get("messages") == 0)
    page.tab.get_by_role("button", name="Delete", exact=True).click()
    page.agree("Delete it")
    expect(page.tab.get_by_role("heading", level=1)).to_have_text("Queues")
    assert api.get(f"/queues/{q(host)}/{q(HOSTILE)}").status == 404


def test_connections_are_shown_and_closed(page, connection):
    channel = connection.channel()
    name = "{}:{}".format(*connection._impl._transport._sock.getsockname()[:2])
    page.open("connections")
    page.row(name).get_by_role("link").click()
    expect(page.tab.get_by_text("Frame size")).to_be_visible()
    expect(page.row(f"{name} -> ").first).to_be_visible()
    page.tab.get_by_role("button", name="Close this connection").click()
    page.agree("Close it")
    page.says("Closed")
    with pytest.raises(pika.exceptions.AMQPError):
        while True:
            channel.queue_declare("", exclusive=True)


def test_users_permissions_and_policies(host, page, api, name):
    page.open("users")
    form = page.unfold("Add a user")
    form.get_by_label("Name").fill(name)
    form.get_by_label("Password").fill("a secret")
    form.get_by_label("Tags").fill("monitoring")
    form.get_by_role("button", name="Add user").click()
    page.says("is there")
    page.tab.get_by_role("link", name=name, exact=True).click()
    form = page.tab.locator("details", has_text="Set permissions in a virtual host")
    form.get_by_label("Virtual host").select_option(host)
    form.get_by_label("Write").fill("^$")
    form.get_by_role("button", name="Set permissions").click()
    page.says("Set.")
    assert api.get(f"/permissions/{q(host)}/{q(name)}").json["write"] == "^$"
    assert Api(api.port, name, "a secret").get("/whoami").json["tags"] == ["monitoring"]
    # The tags alone: the password stays.
    form = page.unfold("Change the password or the tags")
    form.get_by_label("Tags").fill("policymaker, management")
    form.get_by_role("button", name="Change").click()
    page.says("Changed")
    assert sorted(Api(api.port, name, "a secret").get("/whoami").json["tags"]) == ["management", "policymaker"]

    page.open("policies")
    form = page.unfold("Add or change a policy")
    form.get_by_label("Virtual host").select_option(host)
    form.get_by_label("Name").fill("all")
    form.get_by_label("Pattern").fill("^a")
    form.get_by_label("Definition").fill("ha-mode = all\nmax-length = 5")
    form.get_by_role("button", name="Set policy").click()
    page.says("is set")
    assert api.get(f"/policies/{q(host)}/all").json["definition"] == {"ha-mode": "all", "max-length": 5}
    # What is wrong is said, and nothing is done.
    form.get_by_label("Definition").fill("nonsense")
    form.get_by_role("button", name="Set policy").click()
    page.says("key = value")

    page.open(f"users/{q(name)}")
    page.tab.get_by_role("button", name="Delete this user").click()
    page.agree("Delete it")
    page.says("Deleted")
    assert api.get(f"/users/{q(name)}").status == 404
    page.problems.clear()  # the page asked for the user once more before it left


def test_definitions_go_out_and_come_back(host, page, api, tmp_path):
    api.put(f"/queues/{q(host)}/kept", {"durable": True})
    page.tab.get_by_label("vhost", exact=True).select_option(host)
    page.menu("Definitions")
    with page.tab.expect_download() as saved:
        page.tab.get_by_role("button", name="Export definitions").click()
    file = tmp_path / "definitions.json"
    saved.value.save_as(file)
    assert api.delete(f"/queues/{q(host)}/kept").status == 204
    page.tab.get_by_label("A file of definitions").set_input_files(file)
    page.tab.get_by_role("button", name="Import definitions").click()
    page.agree("Import it")
    page.says("Imported")
    assert api.get(f"/queues/{q(host)}/kept").status == 200


def test_many_queues_are_paged_sorted_and_filtered_by_the_broker(host, page, api):
    for number in range(230):
        assert api.put(f"/queues/{q(host)}/many-{number:03}", {"durable": False, "auto_delete": True}).status == 201
    page.tab.get_by_label("vhost", exact=True).select_option(host)
    page.menu("Queues")
    expect(page.tab.get_by_text("Queues – 230 of")).to_be_visible()
    expect(page.tab.get_by_text("page 1 of 3")).to_be_visible()
    page.tab.get_by_role("button", name="Next").click()
    expect(page.row("many-100")).to_be_visible()
    page.tab.get_by_role("columnheader", name="Name").get_by_role("button").click()
    page.tab.get_by_role("columnheader", name="Name").get_by_role("button").click()
    expect(page.tab.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "descending")
    page.tab.get_by_label("Filter by name").fill("many-22")
    expect(page.tab.get_by_text("Queues – 10 of")).to_be_visible()
    expect(page.tab.get_by_role("row").nth(1)).to_contain_text("many-229")


def test_all_of_it_works_from_the_keyboard(page):
    page.open("exchanges")
    page.tab.keyboard.press("Tab")
    focused = "document.activeElement.textContent.trim()"
    seen = []
    for _ in range(60):
        seen.append(page.tab.evaluate(focused))
        if seen[-1] == "Queues":
            break
        page.tab.keyboard.press("Tab")
    assert seen[-1] == "Queues", seen
    page.tab.keyboard.press("Enter")
    expect(page.tab.get_by_role("heading", level=1)).to_have_text("Queues")
    # Each input has a label, each button a name.
    unnamed = """() => [...document.querySelectorAll("input, select, textarea, button, a")].filter((e) =>
        !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))).map((e) => e.outerHTML)"""
    for where in ("queues", "queues/%2F/none", "policies", "users", "definitions", "exchanges/%2F/amq.topic"):
        page.tab.goto(f"{page.base}#/{where}")
        expect(page.tab.get_by_role("heading", level=1)).to_be_visible()
        assert page.tab.evaluate(unnamed) == []
    page.problems.clear()  # there is no queue "none"


def test_light_and_dark_can_be_read(chromium, managed, pytestconfig):
    """Text against what is behind it: 4.5 to 1 at least (WCAG 2, 1.4.3)."""
    if pytestconfig.getoption("--server") != "leveret":
        pytest.skip("the page is Leveret's")
    contrast = """() => {
        const light = (rgb) => { const [r, g, b] = rgb.map((c) => { c /= 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; });
            return .2126 * r + .7152 * g + .0722 * b; };
        const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
        const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
        const bad = [];
        for (const e of document.querySelectorAll("h1, h2, p, a, b, span, label, button, th, td, dt, dd, summary, small, li")) {
            if (!e.textContent.trim() || e.disabled || !e.checkVisibility()) continue;
            const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
            if ((a + .05) / (b + .05) < 4.5) bad.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 30)}`);
        }
        return bad;
    }"""
    for scheme in ("light", "dark"):
        with opened(chromium, managed.api.port, color_scheme=scheme) as page:
            page.log_in()
            page.ready("")
            for where in ("", "queues", "cluster", "users"):
                page.open(where)
                assert page.tab.evaluate(contrast) == [], (scheme, where)
            # The button turns it round.
            before = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
            page.tab.get_by_role("button", name="Theme").click()
            assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_other_sites_change_nothing(managed, api, pytestconfig):
    """A browser that remembers a password sends it for any site: what changes something must come from the page itself."""
    if pytestconfig.getoption("--server") != "leveret":
        pytest.skip("RabbitMQ does not look")
    for site in ("cross-site", "same-site"):
        answer = api.put("/vhosts/foreign", **{"Sec-Fetch-Site": site})
        assert answer.status == 403
        assert api.get("/whoami", **{"Sec-Fetch-Site": site}).status == 200
    assert api.get("/vhosts/foreign").status == 404
    assert api.put("/vhosts/own", **{"Sec-Fetch-Site": "same-origin"}).status == 201
    api.delete("/vhosts/own")


def test_the_page_says_what_browsers_may_do(managed, api, pytestconfig):
    if pytestconfig.getoption("--server") != "leveret":
        pytest.skip("the page is Leveret's")
    for path in ("/", "/main.js", "/views/queues.js"):
        answer = api.send("GET", path)
        assert answer.status == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert api.send("GET", path, **{"If-None-Match": answer.headers["etag"]}).status == 304


def test_below_a_prefix(launch, chromium, pytestconfig):
    if pytestconfig.getoption("--server") != "leveret":
        pytest.skip("the page is Leveret's")
    port = free_port()
    http = {"management.tcp.port": port, "management.tcp.ip": "127.0.0.1", "management.path_prefix": "/broker"}
    server = launch("prefixed", **http)
    server.start()
    try:
        api = Api(port)
        deadline = time.monotonic() + DEADLINE_MS / 1000
        while not reaches(port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert api.send("GET", "/broker/api/whoami").status == 200
        with opened(chromium, f"{port}/broker") as page:
            assert page.tab.url.endswith("/broker/")
            page.log_in()
            expect(page.tab.get_by_role("heading", level=1)).to_have_text("Overview")
    finally:
        server.close()
