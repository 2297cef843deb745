"""``fluid demo``: the whole path of one change on this machine, with nothing mocked."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from backend.demo.clean import clean as clean_up
from backend.demo.home import DemoHome
from backend.demo.progress import Progress
from backend.demo.story import Story
from backend.environment import as_given
from backend.models import ApprovalState


def demo(*, seed: int | None, unattended: bool, json_file: Path | None, clean: bool) -> int:
    """Run the demo; the exit code is 0 only if every promise was kept."""
    if os.geteuid() != 0:
        ours = f"PYTHONPATH={Path(__file__).parents[2]}"  # sudo passes on no variable of this name
        program = ["env", ours, sys.executable, "-P", "-m", "backend.cli"]
        os.execvpe("sudo", ["sudo", "-E", *program, *sys.argv[1:]], as_given())  # noqa: S606
    home = DemoHome()
    if clean:
        return clean_up(home, Progress().say)
    story = Story(home, secrets.randbelow(1_000_000) if seed is None else seed)
    image = story.set_up()
    story.start_agent(image)
    return _unattended(story, json_file) if unattended else _attended(story, json_file)


def _unattended(story: Story, json_file: Path | None) -> int:
    approval = story.review(story.wait_for_request())
    story.tell(approval)
    over, decision_ms = story.approve(approval)
    exit_code = story.conclude(story.figures(over, decision_ms), json_file)
    _say_what_stays(story)
    return exit_code


def _attended(story: Story, json_file: Path | None) -> int:
    from fluid_tui.app import run_console

    story.progress.say("the console opens; the agent's request will appear under 'Needs you' (? is help)")
    run_console(str(story.home.paths.operator_socket))
    mine = [row for row in story.fluid.approvals() if row.sandbox_name == story.scenario.sandbox_name]
    kept = 0
    if mine and mine[0].state in (ApprovalState.APPLIED, ApprovalState.FAILED):
        kept = story.conclude(story.figures(mine[0], 0.0), json_file)
    elif mine:
        story.progress.say(f"the request is {mine[0].state}: nothing was applied")
    _say_what_stays(story)
    return kept


def _say_what_stays(story: Story) -> None:
    say = story.progress.say
    say("still running: the backend, PostgreSQL, libvirt, the sandbox, web-01")
    say(f"come back with:  FLUID_HOME={story.home.folder} ./fluid")
    say("remove it all:   ./fluid demo --clean")
