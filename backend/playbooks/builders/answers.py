"""Answers to the questions that packages ask while they are installed (debconf): given before they ask."""

from __future__ import annotations

import re

from backend.models import ChangeVerb
from backend.playbooks._scope import Reference
from backend.playbooks.builders.context import Context, Phase, Task, title

_PROGRAM = "debconf-set-selections"
_PASSWORD = "password"  # noqa: S105 - debconf's word for the kind of a question
_TEXT = "string"
_SECRET_NAME = re.compile(r"passw|pass$|[_-](?:pw|pwd|pass)(?![a-z])|secret|token", re.IGNORECASE)
# debconf-set-selections(1): a line each, here wherever the shell's text holds one.
_ANSWER = re.compile(
    r"(?<![\w./+-])(?P<owner>[a-z0-9][a-z0-9+.-]{0,99})[ \t]+(?P<question>[\w.+-]{1,99}/[\w./+-]{1,99})[ \t]+"
    r"(?P<kind>boolean|multiselect|note|password|select|string)(?:[ \t]+(?P<value>[^\n'\"]*))?"
)


def answers(context: Context) -> list[Task]:
    """A task for the last answer to each question of a package that was installed. A password, and what is
    named like one, is a secret."""
    installed = {one.name for one in context.changes.packages if one.verb is ChangeVerb.ADDED}
    given: dict[str, tuple[str, re.Match[str]]] = {}
    for command in context.commands:
        if _PROGRAM in command.command and command.exit_code in (0, None):
            for answer in _ANSWER.finditer(command.command):
                if answer["owner"] in installed:
                    given[answer["question"]] = (command.id, answer)
    tasks = []
    for question, (command_id, answer) in given.items():
        value: str | Reference = (answer["value"] or "").rstrip()
        if answer["kind"] == _PASSWORD or (answer["kind"] == _TEXT and _SECRET_NAME.search(question)):
            value = context.secret("answer_to", question)
        elif not value or re.search(r"[$`\\]", value):
            context.note(f"debconf {question}: its answer is no plain text in the command log")
            continue
        else:
            value = context.localized(value)
        args = {"name": answer["owner"], "question": question, "vtype": answer["kind"], "value": value}
        tasks.append(
            Task(
                Phase.SOURCES,
                title(f"Answer {question}"),
                "debconf",
                args,
                commands=[command_id],
                no_log=isinstance(value, Reference) and value in context.secrets,
            )
        )
    return tasks
