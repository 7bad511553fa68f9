"""Publishing and watching, side by side."""

import json
import subprocess

import pytest


def test_changes_left_and_deletes_arrive_as_published(console):
    console.publish({"id": "before", "price": 5})
    console.publish({"id": "dear", "price": 500})
    console.watching("price < 100")
    before = console.whole()
    console.publish({"id": "a", "price": 7})
    console.publish({"id": "a", "price": 700})
    console.counts("watch", changes=before + 1, left=1)
    console.page.fill("#document", '{"id": "before"}')
    console.page.click("#delete")
    console.says("#publish-state", "^before is deleted")
    console.counts("watch", left=2, gaps=0, resyncs=0)
    lines = console.lines()[::-1]
    assert (lines[0][0], lines[1][2], lines[2][0]) == ("snapshotBegin", "before", "snapshotEnd"), lines
    assert [(line[0], line[2]) for line in lines[3:]] == [("change", "a"), ("left", "a"), ("left", "before")]
    document = json.loads(lines[1][4])
    assert document["price"] == 5, document
    positions = [line[3] for line in lines[2:]]
    assert all(positions) and len(set(positions)) == len(positions), positions
    assert console.count("watch", "position") == positions[-1]


def test_watching_is_told_before_anything_arrives(console):
    console.watch(snapshot=False)
    console.says("#watch-state", "^watching")
    assert console.lines() == []


def test_line_begins_with_the_fields_that_were_published(console):
    console.watching(snapshot=False)
    console.publish({"id": "a", "zone": 7})
    console.counts("watch", changes=1)
    assert console.lines()[0][4].startswith('{"zone":7,')


def test_watching_continues_after_a_position(console):
    console.watching(snapshot=False)
    for number in range(3):
        console.publish({"id": f"n{number}", "n": number})
    console.counts("watch", changes=3)
    first = console.lines()[-1][3]
    console.page.click("#watch")
    console.says("#watch-state", "^stopped")
    console.watching(snapshot=False, start=first)
    console.counts("watch", changes=2)
    assert [line[2] for line in console.lines()] == ["n2", "n1"]


@pytest.mark.parametrize("conditions", [["price ~ 5"], ["price < 5", "name =="]])
def test_fault_of_a_condition_is_shown_where_it_is(console, conditions):
    console.watch(*conditions)
    console.says("#filters-fault", r"\S")
    shown = console.page.text_content("#filters-fault").split("\n")
    assert shown[0] == conditions[-1], shown
    assert shown[1].strip() == "^" and len(shown[1]) > 4, shown
    assert "column" in shown[2], shown
    console.says("#watch-state", "not valid")
    # It does not watch something else instead.
    assert console.text("#watch") == "Watch"


@pytest.mark.parametrize(
    ("text", "fault"),
    [("{", "JSON"), ("[]", "one JSON object"), ('{"n": 1}', '"id" must be'), ('{"id": 7}', '"id" must be'), ('{"id": ""}', '"id" must be')],
)
def test_document_that_is_none_is_not_sent(console, text, fault):
    console.page.fill("#document", text)
    console.says("#document-fault", fault)
    sent = len(console.requests)
    console.page.click("#publish")
    assert console.page.get_attribute("#document", "aria-invalid") == "true"
    assert console.text("#publish-state") == "nothing published yet"
    assert len(console.requests) == sent
    console.page.click("#example")
    assert console.text("#document-fault") == ""
    json.loads(console.page.input_value("#document"))


def test_list_is_bounded_pauses_and_shows_one_line_whole(console):
    console.watching(snapshot=False)
    script = """async () => {
        const { query } = await import("./connection.js");
        for (let at = 0; at < 6; at += 1) {
            await query().publish(Array.from({ length: 100 }, (_, n) => ({ id: `d${100 * at + n}`, n: 100 * at + n })));
        }
    }"""
    console.page.evaluate(script)
    console.counts("watch", changes=600)
    lines = console.lines()
    assert [line[2] for line in lines] == [f"d{599 - at}" for at in range(200)]
    console.page.click("#pause")
    console.publish({"id": "later", "deep": {"list": [1, 2]}})
    console.counts("watch", changes=601)
    assert console.lines() == lines, "a list that is paused stays"
    console.page.click("#pause")
    assert console.lines()[0][2] == "later"
    console.page.click("#watch-list .slot")
    item = json.loads(console.text("#watch-item"))
    assert (item["id"], item["data"]["deep"]) == ("later", {"list": [1, 2]})
    # From the keyboard as well.
    console.page.keyboard.press("ArrowDown")
    assert json.loads(console.text("#watch-item"))["id"] == "d599"
    console.page.click("#clear")
    assert console.lines() == []


HOSTILE = '\u202e<img src=x onerror="globalThis.fallen=1">\u001b[31m\n'


def test_text_of_others_is_shown_and_never_obeyed(console):
    console.watching(snapshot=False)
    console.page.evaluate(
        """async (id) => (await import("./connection.js")).query().publish({ id, [id]: id })""",
        HOSTILE,
    )
    console.counts("watch", changes=1)
    shown = '\\u{202e}<img src=x onerror="globalThis.fallen=1">\\u{1b}[31m\\n'
    assert console.lines()[0][2] == shown
    console.page.click("#watch-list .slot")
    for text in (console.text("#watch-item"), console.lines()[0][4]):
        assert not any(char in text for char in "\u202e\u001b"), text
    assert console.page.evaluate("globalThis.fallen ?? 0") == 0


def test_commands_do_what_the_page_does(console, stage):
    # With a line break and a backslash before an n.
    name = "it's \"x\" $HOME `id`\n\\n"
    console.page.fill("#document", json.dumps({"id": "c1", "name": name}))
    commands = console.page.eval_on_selector_all("#publish-commands pre", "all => all.map((it) => it.textContent)")
    console.watching("name == " + json.dumps(name), snapshot=False)
    watched = console.page.eval_on_selector_all("#watch-commands pre", "all => all.map((it) => it.textContent)")
    environment = {"PATH": f"{stage.binary.parent}:/usr/bin:/bin"}
    for number, command in enumerate(commands, 1):
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        console.counts("watch", changes=number)
    for number, line in enumerate(console.lines()):
        assert json.loads(line[4])["name"] == name, (number, line)
    # The subscription on the command line, from the beginning, sees both.
    subscribe = watched[0].replace("--json", "--json --limit 2 --from oldest")
    done = subprocess.run(["sh", "-c", subscribe], env=environment, capture_output=True, text=True, timeout=30)
    changes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [change["id"] for change in changes] == ["c1", "c1"], (subscribe, done.stderr)
    console.page.click("#delete")
    console.says("#publish-state", "^c1 is deleted")
    commands = console.page.eval_on_selector_all("#publish-commands pre", "all => all.map((it) => it.textContent)")
    for left, command in enumerate(commands, 2):
        console.publish(json.loads(console.page.input_value("#document")))
        console.counts("watch", changes=left + 1)
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        console.counts("watch", left=left)


def test_page_loads_from_its_own_gateway_only(console, stage):
    for view in ("cut", "connections", "log"):
        console.show(view)
        console.page.wait_for_timeout(300)
    assert all(url.startswith(stage.url) for url in console.requests), console.requests
