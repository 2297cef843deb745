"""The pure parts of the console: diff rows, words of time, filters, lines."""

from __future__ import annotations

import random
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import alignment
from backend.models import (
    ApprovalState,
    ChangeVerb,
    FileChange,
    FileKind,
    FileState,
    Phase,
    Playbook,
    PlaybookTask,
    ResidualRow,
    RunningChange,
    RunningChanges,
    RunningKind,
    RunningState,
    RunState,
    SettingKind,
    now,
)
from fluid_tui import side_rows
from fluid_tui.diff_rows import document, header_line, summary
from fluid_tui.evidence import checklist, what_will_run, yes_to
from fluid_tui.fleet_rows import Sorting, matches, sandbox_filter, sandbox_rows
from fluid_tui.paint import Mixed, Role, chop, dropped, fit_name, line, plain, width_of, wrap
from fluid_tui.screens.diff import tree_rows
from fluid_tui.side_rows import (
    SHOWN_LINES,
    Budget,
    DiffRow,
    Side,
    folded,
    text_rows,
    unfolded,
    unified,
    value_rows,
)
from fluid_tui.syntax import KINDS, coloured, kind_of
from fluid_tui.words import APPROVALS, ASKS, PHASES, RUNS, SAID, SETTINGS, TASKS, Mark, ago, left, span
from tests.console.sample import access_changes, changes, fleet

NO_SIDE = Side(0, (), changed=False)
TEXTS = st.lists(st.sampled_from(["a", "b", "  c", "d e f", ""]), max_size=30).map("\n".join)


@pytest.mark.parametrize(("states", "marks"), [(Phase, PHASES), (ApprovalState, APPROVALS), (RunState, RUNS)])
def test_each_state_is_a_glyph_a_word_of_its_own_and_a_colour(
    states: type[StrEnum], marks: dict[StrEnum, Mark]
) -> None:
    assert set(marks) == set(states)
    for mark in [*marks.values(), *SAID.values(), *TASKS.values(), ASKS]:
        assert len(mark.glyph) == width_of(line((mark.glyph, mark.role))) == 1 and mark.glyph.isprintable()
        assert mark.word.replace(" ", "").isalpha()
        assert mark.run == (f"{mark.glyph} {mark.word}", mark.role)
    words = [mark.word for mark in marks.values()]
    assert len(set(words)) == len(words)


@given(TEXTS, TEXTS)
def test_no_changed_line_is_lost(old: str, new: str) -> None:
    rows = list(text_rows(old, new))
    numbers = [row.right.number for row in rows if row.right]
    assert numbers == sorted(numbers)
    removed = [plain(row.left.text) for row in rows if row.left and row.left.changed]
    added = [plain(row.right.text) for row in rows if row.right and row.right.changed]
    if old.split("\n") != new.split("\n"):
        assert removed or added
    flat, moved = unified(rows)
    assert [plain(row.right.text) for row in flat if row.right and row.right.changed] == added
    assert [plain(row.left.text) for row in flat if row.left and row.left.changed] == removed
    assert set(moved) == set(range(len(rows)))


def test_words_that_differ_are_marked() -> None:
    (row,) = text_rows("listen 80 default;\n", "listen 443 default;\n")
    assert [text for text, role in row.left.text if role is Role.REMOVED_WORD] == ["80"]
    assert [text for text, role in row.right.text if role is Role.ADDED_WORD] == ["443"]


def test_what_a_file_is_besides_its_text_are_lines_and_what_is_not_shown_says_so() -> None:
    base = changes(now()).files[0].after
    assert base is not None
    small = base.model_copy(
        update={
            "owner": "www-data",
            "mode": 0o4755,
            "same_file": ["/usr/bin/tool2", "/usr/bin/\x1b[2J"],
            "xattrs": {"security.capability": f"0100000200040000{'0' * 24}"},
            "text": None,
            "size": 4,
        }
    )
    large = base.model_copy(update={"text": None, "size": 5_000_000, "sha256": "b" * 64})
    link = base.model_copy(update={"kind": FileKind.LINK, "target": "/etc/\x1b[2Jshadow", "sha256": None})
    found = changes(now())
    found.files = [
        FileChange(path="/usr/bin/tool", verb=ChangeVerb.MODIFIED, before=small, after=large),
        FileChange(path="/etc/link", verb=ChangeVerb.ADDED, after=link.model_copy(update={"text": None})),
    ]
    found.packages, found.units, found.users = [], [], []
    told = [plain(row.whole).strip() for row in document(found).rows if row.whole]
    assert told == [
        "~ /usr/bin/tool  modified",
        "- owner: www-data:root",
        "+ owner: root:root",
        "- mode: 4755",
        "+ mode: 0644",
        "- one file with: /usr/bin/tool2, /usr/bin/␛[2J",
        "- xattr security.capability: cap_net_bind_service=ep",
        "- size: 4 bytes",
        "+ size: 5,000,000 bytes",
        f"- sha256: {base.sha256}",
        f"+ sha256: {'b' * 64}",
        "content not shown: binary or too large; size and hash above",
        "+ /etc/link  added",
        "+ kind: link",
        "+ owner: root:root",
        "+ mode: 0644",
        "+ points to: /etc/␛[2Jshadow",
    ]


def test_equal_lines_far_from_a_change_are_folded() -> None:
    old = "".join(f"{number}\n" for number in range(100))
    rows = list(text_rows(old, old.replace("50\n", "fifty\n")))
    assert "⋯ 47 equal lines" in plain(rows[0].whole)
    assert len(rows) == 9


def test_a_fold_holds_the_lines_that_it_stands_for() -> None:
    old = "".join(f"{number}\n" for number in range(100))
    rows = list(text_rows(old, old.replace("50\n", "fifty\n")))
    opened, moved = unfolded(rows)
    assert [plain(row.left.text) for row in opened] == [str(number) for number in range(100)]
    assert plain(opened[moved[4]].right.text) == "fifty"


@pytest.mark.parametrize(
    ("path", "text", "parts"),
    [
        ("/etc/nginx/nginx.conf", "  listen 80; # all", {"  listen": Role.KEY, "# all": Role.MUTED}),
        ("/etc/systemd/system/a.service", "[Unit]", {"[Unit]": Role.HEAD}),
        (
            "/srv/run.sh",
            'if x; then echo "a # b"',
            {"if": Role.KEY, "then": Role.KEY, '"a # b"': Role.STRING},
        ),
        ("/srv/a.json", '{"key": "value"}', {'"key"': Role.KEY, '"value"': Role.STRING}),
        ("/srv/index.html", '<a href="x">', {"<a": Role.KEY, '"x"': Role.STRING, ">": Role.KEY}),
        ("/srv/notes.txt", "if # no", {}),
    ],
)
def test_parts_of_a_line_have_the_colours_of_the_files_kind(
    path: str, text: str, parts: dict[str, Role]
) -> None:
    made = coloured(line(text), kind_of(path))
    assert plain(made) == text
    assert {words: role for words, role in made if role is not Role.TEXT} == parts


def test_what_differs_keeps_its_mark_under_the_colours_of_the_kind() -> None:
    (row,) = text_rows("listen 80 x;\n", "listen 443 x;\n", "settings")
    made = coloured(row.right.text, row.right.kind)
    assert made[0] == ("listen", Mixed(Role.ADDED, Role.KEY))
    assert ("443", Role.ADDED_WORD) in made


@given(st.text(alphabet="\"'\\#;[]<>/!- abc:{}", max_size=400), st.sampled_from(sorted(KINDS)))
def test_no_colour_loses_a_character(text: str, kind: str) -> None:
    assert plain(coloured(line((text[:200], Role.ADDED), (text[200:], Role.ADDED_WORD)), kind)) == text


@given(
    st.lists(st.tuples(st.text(alphabet="ab日é", max_size=5), st.just(Role.TEXT)), max_size=5),
    st.integers(0, 30),
)
def test_a_line_without_its_first_cells_is_that_much_shorter(
    runs: list[tuple[str, Role]], cells: int
) -> None:
    made = dropped(tuple(runs), cells)
    assert width_of(made) == max(0, width_of(tuple(runs)) - cells)


def test_in_a_very_long_file_only_what_changed_is_marked() -> None:
    old = "".join(f"line {number}\n" + "}\n" * (number % 10 == 0) for number in range(50_000))
    new = old.replace("line 20000\n", "changed\n").replace("line 40000\n", "")
    changed = [row for row in text_rows(old, new) if (row.left or row.right or NO_SIDE).changed]
    told = [(plain(row.left.text), plain(row.right.text) if row.right else None) for row in changed]
    assert told == [("line 20000", "changed"), ("line 40000", None)]


def test_a_very_long_file_that_changed_throughout_is_cut_with_a_word() -> None:
    *rows, last = text_rows("a\n" * 30_000, "b\n" * 50_000)
    assert len(rows) == SHOWN_LINES
    assert "10,000 and 30,000 more lines are not drawn" in plain(last.whole)


def test_lines_that_were_not_all_compared_have_a_word_before_them() -> None:
    old, new = ("\n".join("ab"[at * at * step % 11 % 2] for at in range(3_000)) for step in (5, 7))
    rows = list(text_rows(old, new))
    at = next(at for at, row in enumerate(rows) if row.whole)
    assert "compared coarsely" in plain(rows[at].whole)
    assert rows[at + 1].left and rows[at + 1].left.changed


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.lists(st.integers(0, 40), max_size=60),
    st.integers(0, 30),
    st.integers(0, 200),
)
def test_runs_cover_both_texts_and_equal_ones_are_equal(
    old: list[int], new: list[int], exact: int, work: int
) -> None:
    left, right = [f"line {one}" for one in old], [f"line {one}" for one in new]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "EXACT_LINES", exact)
        patch.setattr(alignment, "COMPARISONS", work)
        runs = alignment.opcodes(left, right)
    assert [at for _, l1, l2, _, _ in runs for at in range(l1, l2)] == list(range(len(left)))
    assert [at for _, _, _, r1, r2 in runs for at in range(r1, r2)] == list(range(len(right)))
    assert all(left[l1:l2] == right[r1:r2] for tag, l1, l2, r1, r2 in runs if tag == "equal")
    assert not any(one[0] == two[0] == "equal" for one, two in pairwise(runs))


def _marked(rows: list[DiffRow]) -> int:
    """How many lines have words that differ marked."""
    return sum(
        row.right is not None and any(role is Role.ADDED_WORD for _, role in row.right.text) for row in rows
    )


def test_no_lines_that_an_agent_makes_take_more_than_a_moment_and_it_is_said() -> None:
    old = "".join("a," * 195 + f"{number}\n" for number in range(600))
    new = "".join(",a" * 98 + "b," * 98 + f"{number}\n" for number in range(600))
    budget = Budget()
    began = monotonic()
    rows = list(text_rows(old, new, budget=budget))
    assert monotonic() - began < 30, "the words of all of them take two minutes"
    assert budget.words.left > -2 * side_rows.EXACT_CHARS
    assert "too much to compare" in plain(rows[0].whole)
    assert [plain(row.right.text) for row in rows if row.right] == new.splitlines(), "all of it is there"


def test_the_work_is_counted_for_all_files_of_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_rows, "WORD_COMPARISONS", 40)
    one, other = (
        FileState(kind=FileKind.FILE, mode=0o644, uid=0, gid=0, text=f"listen {port} default;\n")
        for port in (80, 443)
    )
    files = [
        FileChange(path=f"/etc/{number}", verb=ChangeVerb.MODIFIED, before=one, after=other)
        for number in range(8)
    ]
    rows = document(changes(now()).model_copy(update={"files": files})).rows
    assert 0 < _marked(rows) < 8
    told = [row for row in rows if row.whole and "too much to compare" in plain(row.whole)]
    assert len(told) == 8 - _marked(rows), "each file says it"


def test_the_words_of_600_wide_lines_of_a_table_are_marked() -> None:
    chance = random.Random(1)
    table = [[chance.randrange(100_000) for _ in range(60)] for _ in range(600)]
    old = "\n".join(",".join(map(str, fields)) for fields in table)
    for fields in table:
        fields[chance.randrange(60)] += 1
        fields[chance.randrange(60)] += 1
    rows = list(text_rows(old, "\n".join(",".join(map(str, fields)) for fields in table)))
    assert _marked(rows) == 600
    assert not any(row.whole for row in rows)


def test_a_file_without_a_last_newline_says_so() -> None:
    rows = list(text_rows("a\n", "a"))
    assert any("no newline at the end" in plain(row.right.text) for row in rows if row.right)


def test_a_document_names_every_change_once() -> None:
    made = document(changes(now()))
    assert [item.name for item in made.items][:4] == ["nginx", "nginx-common", "nginx.service", "deploy"]
    assert "/var/log/dpkg.log" not in [item.name for item in made.items]
    assert "/var/log/dpkg.log" in [item.name for item in document(changes(now()), noise=True).items]
    text = "\n".join(plain(row.whole) for row in made.rows if row.whole)
    assert "content withheld: private key" in text


def test_a_document_shows_settings_by_kind_and_a_rename_once() -> None:
    made = document(access_changes(now()))
    assert [(item.kind, item.sign, item.name) for item in made.items] == [
        ("Sudo rules", "~", "deploy"),
        ("Login keys", "+", "root SHA256:abc"),
        ("SSH daemon", "~", "PermitRootLogin"),
        ("Unit files", "+", "shop.service"),
        ("Cron jobs", "-", "/bin/job"),
        ("Files", ">", "/etc/nginx/sites-available/shop.conf"),
    ]
    assert made.items[-1].was == "/etc/nginx/sites-available/shop.off"
    assert len({item.key for item in made.items}) == len(made.items)
    assert summary(access_changes(now())) == "1 file, 5 settings"
    assert "Hosts file" in {item.kind for item in document(access_changes(now()), noise=True).items}


def test_what_listens_and_runs_is_shown_with_whose_word_it_is() -> None:
    port, unit = RunningKind.PORT, RunningKind.UNIT
    running = RunningChanges(
        before=RunningState(ports={"tcp *:22": "sshd", "tcp *:80": "apache2"}, units={}),
        after=RunningState(ports={"tcp *:22": "sshd", "tcp *:80": "nginx\x1b"}, units={}),
        changes=[
            RunningChange(
                kind=port, name="tcp *:80", verb=ChangeVerb.MODIFIED, before="apache2", after="nginx\x1b"
            ),
            RunningChange(kind=unit, name="web.service", verb=ChangeVerb.REMOVED, before="running"),
            RunningChange(kind=unit, name="foo.service", verb=ChangeVerb.ADDED, after="failed"),
        ],
        notes=["now: half of it is not told\x1b"],
    )
    read = access_changes(now()).model_copy(update={"running": running})
    made = document(read)
    items = [(item.kind, item.sign, item.name) for item in made.items]
    assert items[-4:-1] == [
        ("Listening", "~", "tcp *:80"),
        ("Running", "-", "web.service"),
        ("Running", "!", "foo.service"),
    ]
    shown = [plain(row.whole) for row in made.rows if row.whole]
    assert "~ tcp *:80  modified · read by asking the guest: root there could lie" in shown
    assert "! foo.service  failed · read by asking the guest: root there could lie" in shown
    assert {"  - apache2", "  + nginx␛"} <= set(shown) and shown[-1] == "now: half of it is not told␛"
    stayed = "as before: tcp *:22 sshd · read by asking the guest: root there could lie"
    assert stayed not in shown
    assert stayed in [plain(row.whole) for row in document(read, noise=True).rows if row.whole]
    assert summary(read) == "1 file, 5 settings, 1 port, 2 running units"
    assert {row.key for row in tree_rows(made)} >= {item.key for item in made.items}
    assert "~1" in plain(next(row.cells[0] for row in tree_rows(made) if row.key == "kind Listening"))
    assert "-1 !1" in plain(next(row.cells[0] for row in tree_rows(made) if row.key == "kind Running"))


def test_a_review_says_what_runs_in_the_sandbox_or_its_twin_only_and_ticks_nothing() -> None:
    approval = fleet(now()).approvals[0]

    def told() -> list[str]:
        lines = [plain(each) for each in checklist(approval)]
        return [each for each in lines if "running  " in each or "tcp *:8000" in each]

    assert told() == []
    approval.evidence.running = []
    assert told() == ["· running  as in the sandbox, by the guest's own word"]
    row = ResidualRow(kind="missing", noun="port", name="tcp *:8000\x1b", reason="no unit starts it")
    approval.evidence.running = [row]
    assert told() == [
        "! running  1 difference, by the guest's own word",
        "    missing port tcp *:8000␛  no unit starts it",
    ]


def test_a_review_tells_what_the_diffs_say_of_themselves_and_ticks_no_residual_of_unwritten_data() -> None:
    approval = fleet(now()).approvals[0]

    def told() -> list[str]:
        return [plain(each) for each in checklist(approval)]

    assert not [each for each in told() if "diff  " in each or "frozen" in each]
    approval.evidence.quiesced = False
    approval.evidence.notes = ["not quiesced\x1b", *(f"/etc/{n}: is a link" for n in range(13))]
    at = told().index("! diff  14 notes")
    assert told()[at + 1] == "    not quiesced␛" and told()[at + 13] == "    and 2 more"
    residual = next(each for each in told() if "residual  " in each)
    assert residual.startswith("! ") and residual.endswith("; not frozen, unwritten data is not compared")


def test_a_review_counts_settings_by_kind_and_a_task_s_path_stands_beside_its_name() -> None:
    approval = fleet(now()).approvals[0]
    approval.evidence.counts = {"files": 3, "sudo rule": 2, "ssh daemon": 1, "hosts entry": 1}
    told = plain(checklist(approval)[0])
    assert told == "✓ changes  3 files, 2 sudo rules, 1 sshd setting, 1 hosts line"
    tasks = [
        PlaybookTask(name="Let d run a as root", module="ansible.builtin.copy", paths=["/etc/sudoers.d/d"]),
        PlaybookTask(name="Remove /etc/x", module="ansible.builtin.file", paths=["/etc/x"]),
    ]
    made = Playbook(id="PBK-1", name="p", sandbox_id="S", yaml="", tasks=tasks, digest="d", created_at=now())
    shown = [plain(each) for each in what_will_run(approval, made)]
    assert "run  Let d run a as root  ansible.builtin.copy /etc/sudoers.d/d" in shown
    assert "run  Remove /etc/x  ansible.builtin.file" in shown


def _told_of(*tasks: PlaybookTask, yaml: str = "") -> list[str]:
    made = Playbook(
        id="PBK-1", name="p", sandbox_id="S", yaml=yaml, tasks=list(tasks), digest="d", created_at=now()
    )
    return [plain(each) for each in what_will_run(fleet(now()).approvals[0], made)]


def test_a_command_is_shown_beside_unsafe_text_and_one_that_cannot_be_is_said_so() -> None:
    task = PlaybookTask(name="Make it", module="ansible.builtin.command", opaque=True)
    yaml = """
- hosts: all
  tasks:
    - name: Say it
      ansible.builtin.lineinfile: {path: /etc/motd, line: !unsafe "a {{ b }}"}
    - name: Make it
      ansible.builtin.command:
        argv: [echo, !unsafe "{{ 7*7 }} #"]
"""
    assert "     $ echo '{{ 7*7 }} #'" in _told_of(task, yaml=yaml)
    for unread in ("", "- [", yaml.replace("argv", "cmd"), "- day: 2026-13-45"):
        assert "     ! its command is not shown here: read it in the Playbook tab" in _told_of(
            task, yaml=unread
        )


def test_a_path_is_left_out_only_where_the_name_ends_in_the_whole_of_it() -> None:
    file = "ansible.builtin.file"

    def told(name: str, *paths: str) -> str:
        return _told_of(PlaybookTask(name=name, module=file, paths=list(paths)))[-2]

    assert told("Tidy /etc/ssh/sshd_config.d/old.conf", "/etc/ssh").endswith(f"{file} /etc/ssh")
    assert told("Tidy /srv/etc/ssh", "/etc/ssh").endswith(f"{file} /etc/ssh")
    assert told("Tidy /etc/ssh in /srv", "/etc/ssh").endswith(f"{file} /etc/ssh")
    assert told("Tidy /etc/ssh", "/etc/ssh") == f"run  Tidy /etc/ssh  {file}"
    assert told("/etc/ssh", "/etc/ssh") == f"run  /etc/ssh  {file}"
    assert told("Tidy /etc/a", "/etc/a", "/etc/b", "/etc/c").endswith(f"{file} /etc/a and 2 more")


def test_what_the_rehearsal_skipped_stands_first_and_opaque_tasks_are_counted_where_yes_is_typed() -> None:
    evidence = fleet(now()).approvals[0].evidence.model_copy(update={"unrehearsed": ["Skipped"]})
    approval = fleet(now()).approvals[0].model_copy(update={"evidence": evidence})
    assert [plain(each).strip() for each in checklist(approval)[:2]] == ["! unrehearsed  1 task", "Skipped"]
    told = [yes_to(evidence.model_copy(update={"opaque": names})) for names in ([], ["a"], ["a", "b"])]
    assert told == ["approve", "approve with 1 opaque task", "approve with 2 opaque tasks"]


def test_every_kind_of_setting_has_its_heading() -> None:
    assert set(SETTINGS) == set(SettingKind)


def test_values_stand_beside_one_another_with_the_equal_ones() -> None:
    rows = list(value_rows({"a": "1", "b": "2", "gone": "x"}, {"a": "1", "b": "3", "new": "y"}))
    told = [
        tuple(side and (plain(side.text), side.changed) for side in (row.left, row.right)) for row in rows
    ]
    assert told == [
        (("a: 1", False), ("a: 1", False)),
        (("b: 2", True), ("b: 3", True)),
        (("gone: x", True), None),
        (None, ("new: y", True)),
    ]


@given(st.lists(st.text("a漢 b\u0301", max_size=30), max_size=4), st.integers(2, 12))
def test_chopping_loses_nothing_and_keeps_the_width(texts: list[str], width: int) -> None:
    runs = line(*texts)
    lines = chop(runs, width)
    assert "".join(plain(each) for each in lines) == plain(runs)
    assert all(width_of(each) <= width for each in lines)


@given(st.text("ab 漢", max_size=200), st.text("ab 漢", max_size=200), st.integers(20, 90), st.booleans())
def test_a_row_that_is_too_wide_becomes_several(left: str, right: str, width: int, beside: bool) -> None:
    row = DiffRow(left=Side(1, line(left), True), right=Side(2, line(right), True))
    parts = folded(row, width, beside=beside)
    assert "".join(plain(part.left.text) for part in parts if part.left) == left
    assert "".join(plain(part.right.text) for part in parts if part.right) == right
    assert [part.left.number for part in parts if part.left][1:] == [0] * (
        sum(bool(p.left) for p in parts) - 1
    )


def test_a_header_says_how_the_change_was_read_and_warns_of_a_guests_word() -> None:
    read = changes(now())
    told = read.model_copy(update={"read_from": "guest", "quiesced": False})
    assert "read from the disk" in plain(header_line(read, "a", "b"))
    words = next(piece for piece in header_line(told, "a", "b") if "read by asking the guest" in piece[0])
    assert "root there could lie" in words[0] and words[1] is Role.WARN


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (19, "10 s"), (60, "1 m"), (3599, "59 m"), (7300, "2 h"), (200_000, "2 d")],
)
def test_times_move_in_coarse_steps(seconds: int, words: str) -> None:
    assert span(seconds) == words


def test_ages_and_ends() -> None:
    at = now()
    assert ago(at - timedelta(seconds=9), at) == "just now"
    assert ago(at - timedelta(seconds=45), at) == "40 s ago"
    assert ago(None, at) == ""
    assert left(at + timedelta(minutes=12, seconds=30), at) == "12m"
    assert left(None, at) == "—"
    assert left(at, at) == "over"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", 5),
        ("host:kvm-02", 3),
        ("host:kvm-02 state:error", 1),
        ("state:asks", 1),
        ("claude", 3),
        ("agent:codex nginx", 0),
    ],
)
def test_the_filter_needs_every_word(words: str, names: int) -> None:
    sandboxes = fleet().sandboxes
    wanted = sandbox_filter(words)
    assert sum(matches(one, wanted, one.sandbox_name == "nginx-tls", now()) for one in sandboxes) == names


@pytest.mark.parametrize(
    ("name", "width", "fitted"),
    [
        ("claude-code-12", 10, "claud…e-12"),
        ("kvm-02", 8, "kvm-02  "),
        ("日本語日本語", 8, "日本 …語"),
        ("ab", 1, "…"),
        ("ab", 0, ""),
    ],
)
def test_a_name_that_is_too_long_keeps_its_end(name: str, width: int, fitted: str) -> None:
    assert fit_name(name, width) == fitted


@given(st.text(alphabet="ab é漢 ", max_size=200), st.integers(12, 60))
def test_wrapping_keeps_words_and_width(text: str, width: int) -> None:
    lines = wrap(line(text), width, 2)
    assert all(width_of(each) <= width for each in lines if plain(each).strip())
    assert "".join("".join(plain(each).split()) for each in lines) == "".join(text.split())


def test_a_row_says_why_a_sandbox_is_held_and_warns_of_its_end() -> None:
    known = fleet()
    running = next(one for one in known.sandboxes if one.phase is Phase.RUNNING)
    soon = now() + timedelta(seconds=300)
    held = {"phase": Phase.PAUSED, "reason": "local has 3 MB of disk left", "last_command": "dd"}
    rows = [
        sandbox_rows(known.model_copy(update={"sandboxes": [box]}), now(), "", Sorting.NAME)[0].cells
        for box in (
            running.model_copy(update={"expires_at": soon, "expiry_told_s": 600}),
            running.model_copy(update={"expires_at": soon, **held}),
        )
    ]
    assert (rows[0][4][1], rows[1][4][1]) == (Role.WARN, Role.MUTED)
    assert rows[1][5] == ("local has 3 MB of disk left", Role.WARN)
