"""The page as people meet it: keyboard, phone, contrast, rights."""

import subprocess

import pytest
from axe_playwright_python.sync_playwright import Axe

from console import VIEWS
from servers import until


def busy(console):
    """Fills every view with something."""
    console.publish({"id": "first", "price": 1})
    console.watching("price < 100")
    before = console.whole()
    console.publish({"id": "a", "price": 7})
    console.counts("watch", changes=before + 1)
    console.run()
    console.page.click("#cut")
    console.received(console.number("received") + 10)
    for view in ("connections", "log"):
        console.show(view)
        console.page.wait_for_timeout(2500)
    console.show("cut")
    console.stop_run()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_have_no_serious_fault_of_accessibility(stage, open_console, scheme):
    console = open_console(stage.url, scheme=scheme)
    busy(console)
    for view in VIEWS:
        console.show(view)
        found = Axe().run(console.page).response["violations"]
        serious = [(it["id"], [node["html"][:100] for node in it["nodes"]]) for it in found if it["impact"] in ("serious", "critical")]
        assert serious == [], (view, serious)


def test_phone_has_no_horizontal_scroll(stage, open_console):
    console = open_console(stage.url, width=360, height=740)
    busy(console)
    for view in VIEWS:
        console.show(view)
        assert console.page.evaluate("document.documentElement.scrollWidth") == 360, view


def test_nothing_moves_while_figures_and_changes_arrive(stage, open_console):
    # That there was no shift is judged at the end of every test; here all that arrives does so without input.
    console = open_console(stage.url)
    console.watching(snapshot=False)
    script = """async () => {
        const { query } = await import("./connection.js");
        for (let n = 0; n < 60; n += 1) await query().publish({ id: `m${n}`, n, text: "x".repeat(n * 5) });
    }"""
    console.page.evaluate(script)
    console.counts("watch", changes=60)
    console.run()
    console.page.evaluate("document.querySelector('#cut').click()")
    console.page.wait_for_timeout(4000)
    for view in ("connections", "log"):
        console.show(view)
        console.page.wait_for_timeout(3500)
    console.show("cut")
    console.stop_run()


def test_page_is_used_with_the_keyboard_alone(console):
    page = console.page
    page.keyboard.press("?")
    assert page.is_visible("#shortcuts")
    listed = page.eval_on_selector_all("#shortcut-list kbd", "all => all.map((it) => it.textContent)")
    assert listed == ["1", "2", "3", "4", "w", "p", "n", "x", "t", "?", "Ctrl Enter"]
    page.keyboard.press("Escape")
    for number, view in enumerate(VIEWS, 1):
        page.keyboard.press(str(number))
        assert page.is_visible(f"#view-{view}") and page.url.endswith(f"#{view}")
    page.keyboard.press("1")
    page.keyboard.press("w")
    console.says("#watch-state", "^watching")
    before = console.whole()
    # In a field, letters are text.
    page.focus("#document")
    page.keyboard.press("Control+a")
    page.keyboard.type('{"id": "wpx?"}')
    page.keyboard.press("Control+Enter")
    console.counts("watch", changes=before + 1)
    console.says("#watch-state", "^watching")
    page.focus("#tab-watch")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-cut" and page.is_visible("#view-cut")
    page.keyboard.press("t")
    assert page.get_attribute("html", "data-theme") == "light"


def test_focus_follows_the_order_of_the_page(console):
    console.page.focus("#token")
    order = []
    for _ in range(14):
        order.append(console.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        console.page.keyboard.press("Tab")
    expected = ["token", "Use", "theme", "help", "tab-watch", "database", "collection", "filters", "snapshot", "left", "from", "watch"]
    assert order[:12] == expected, order


def test_theme_is_kept_and_the_token_is_not(console):
    page = console.page
    console.use_token("secret-token")
    page.keyboard.press("Escape")
    page.click("#theme")
    page.click("#theme")
    page.reload()
    assert page.get_attribute("html", "data-theme") == "dark"
    stored = page.evaluate("JSON.stringify([{ ...localStorage }, document.cookie, location.href])")
    assert "secret-token" not in stored, stored
    assert page.evaluate("Object.values(sessionStorage)") == ["secret-token"]
    commands = page.eval_on_selector_all(".command pre", "all => all.map((it) => it.textContent).join()")
    assert "secret-token" not in commands and "$TOKEN" in commands, commands


# As where a browser forbids storage.
NO_STORAGE = """
  for (const name of ["sessionStorage", "localStorage"]) {
    Object.defineProperty(globalThis, name, { get() { throw new DOMException("forbidden", "SecurityError"); } });
  }
"""


def test_page_works_where_storage_is_forbidden(stage, open_console):
    console = open_console(stage.url, script=NO_STORAGE)
    console.use_token("secret-token")
    console.publish({"id": "a"})
    commands = console.page.eval_on_selector_all(".command pre", "all => all.map((it) => it.textContent).join()")
    assert "$TOKEN" in commands, commands
    console.page.click("#theme")
    assert console.page.get_attribute("html", "data-theme") == "light"


def test_screen_reader_is_not_addressed_by_figures(console):
    console.show("connections")
    console.says("#connections-state", "ready")
    script = """(id) => {
        globalThis.spoken = 0;
        new MutationObserver(() => (spoken += 1)).observe(document.querySelector(id), { subtree: true, childList: true, characterData: true });
    }"""
    assert console.page.get_attribute("#connections-state", "role") == "status"
    console.page.evaluate(script, "#connections-state")
    before = console.says("#connections-gateway", "version .*, up")
    until(lambda: console.text("#connections-gateway") != before.string, "another reading is shown")
    assert console.page.evaluate("spoken") == 0
    assert console.page.query_selector("[role=status] #connections-gateway, #connections-gateway[role]") is None


POLICY = """
[[grants]]
role = "reader"
databases = ["shop"]
collections = ["articles"]
actions = ["subscribe"]
filter = ["price < 100"]

[[grants]]
role = "writer"
databases = ["shop"]
collections = ["articles"]
actions = ["publish"]

[[grants]]
role = "operator"
actions = ["admin"]
"""


@pytest.fixture
def tokens(binary, tmp_path):
    """A policy file, and the token of each role."""
    policy, tokens = POLICY, {}
    for role in ("reader", "writer", "operator"):
        file = tmp_path / f"{role}.token"
        made = subprocess.run([binary, "token", "new", role, "--out", file], capture_output=True, text=True, check=True)
        policy += made.stdout + f'\n[[members]]\nroles = ["{role}"]\nprincipals = ["token:{role}"]\n'
        tokens[role] = file.read_text().strip()
    (tmp_path / "access.toml").write_text(policy)
    return tmp_path / "access.toml", tokens


def test_page_shows_what_a_token_may_not(stage_with, open_console, tokens):
    policy, tokens = tokens
    stage = stage_with(arguments=["--access", str(policy)])
    reader = open_console(stage.url, token=tokens["reader"])
    writer = open_console(stage.url, token=tokens["writer"])
    operator = open_console(stage.url, token=tokens["operator"])
    reader.watching(snapshot=False)
    writer.publish({"id": "cheap", "price": 5})
    writer.publish({"id": "dear", "price": 500})
    writer.publish({"id": "cheap too", "price": 6})
    reader.counts("watch", changes=2)
    assert [line[2] for line in reader.lines()] == ["cheap too", "cheap"]
    reader.page.click("#publish")
    reader.says("#publish-state", 'the action "publish" must be granted')
    writer.watch(snapshot=False)
    writer.says("#watch-state", 'the action "subscribe" must be granted')
    for view in ("connections", "log"):
        reader.show(view)
        reader.says(f"#{view}-state", 'for administrators: the action "admin" must be granted')
        operator.show(view)
        operator.says(f"#{view}-state", "ready")


def test_token_that_is_refused_is_not_told_as_one_without_rights(console):
    script = """async () => {
        const { refusal } = await import("./shown.js");
        return ["unauthenticated", "denied", "limit"].map((code) => refusal({ code, message: "why\\n" }, "grant it"));
    }"""
    assert console.page.evaluate(script) == ["the token was refused: why\\n", "denied: why\\n; grant it", "why\\n"]


@pytest.mark.parametrize("apart", [False, True], ids=["one_process", "two_processes"])
def test_figures_are_those_of_gateway_and_streamer(stage_with, open_console, apart):
    stage = stage_with(apart=apart)
    console = open_console(stage.url)
    for number in range(3):
        console.publish({"id": f"a{number}"})
    console.show("log")
    console.says("#log-state", "^Streamer ready")
    console.counts("log", head=3, begins_after=0, events=3)
    console.show("connections")
    console.says("#connections-state", r"sockets: 1, subscriptions: 0; Streamer ready")
    console.says("#sockets", r"127\.0\.0\.1.*v1")
