"""The methods that both clients and both handles have, made from the calls: nothing is written twice."""

from __future__ import annotations

from backend.client import calls, operator_calls
from backend.client.call import flow_method, method, on_sandbox


class AgentMethods:
    """What both doors answer."""

    create = method(calls.create)
    sandbox = method(calls.sandbox)
    sandboxes = method(calls.sandboxes)
    start = method(calls.start)
    stop = method(calls.stop)
    pause = method(calls.pause)
    resume = method(calls.resume)
    extend = method(calls.extend)
    destroy = method(calls.destroy)
    run = method(calls.run)
    commands = method(calls.commands)
    read_file = method(calls.read_file)
    write_file = method(calls.write_file)
    edit_file = method(calls.edit_file)
    delete_file = method(calls.delete_file)
    stat_file = method(calls.stat_file)
    list_files = method(calls.list_files)
    snapshot = method(calls.snapshot)
    snapshots = method(calls.snapshots)
    restore = method(calls.restore)
    branch = method(calls.branch)
    delete_snapshot = method(calls.delete_snapshot)
    diff = method(calls.diff)
    changes = method(calls.changes)
    generate_playbook = method(calls.generate_playbook)
    playbook = method(calls.playbook)
    playbooks = method(calls.playbooks)
    update_playbook = method(calls.update_playbook)
    playbook_file = method(calls.playbook_file)
    request_approval = method(calls.request_approval)
    approval = method(calls.approval)
    approvals = method(calls.approvals)
    withdraw_approval = method(calls.withdraw_approval)
    wait_approval = flow_method(calls.wait_approval)
    ask = flow_method(calls.ask)
    open_pane = method(calls.open_pane)
    panes = method(calls.panes)
    send_keys = method(calls.send_keys)
    read_pane = method(calls.read_pane)
    close_pane = method(calls.close_pane)
    whoami = method(calls.whoami)
    say = method(calls.say)
    sources = method(calls.sources)
    targets = method(calls.targets)
    images = method(calls.images)
    health = method(calls.health)
    policy = method(calls.policy)


class OperatorMethods:
    """What the operator door answers besides."""

    fleet = method(operator_calls.fleet)
    status = method(operator_calls.status)
    hosts = method(operator_calls.hosts)
    dry_run = method(operator_calls.dry_run)
    approve = method(operator_calls.approve)
    reject = method(operator_calls.reject)
    pack = method(operator_calls.pack)
    answer = method(operator_calls.answer)
    asks = method(operator_calls.asks)
    run_of = method(operator_calls.run_of)
    cancel_run = method(operator_calls.cancel_run)
    audit = method(operator_calls.audit)
    verify_audit = method(operator_calls.verify_audit)
    export_audit = method(operator_calls.export_audit)
    check_targets = method(operator_calls.check_targets)
    build_image = method(operator_calls.build_image)


class SandboxMethods:
    """What a sandbox's handle does, without its id."""

    run = on_sandbox(calls.run)
    read = on_sandbox(calls.sandbox)
    commands = on_sandbox(calls.commands)
    start = on_sandbox(calls.start)
    stop = on_sandbox(calls.stop)
    pause = on_sandbox(calls.pause)
    resume = on_sandbox(calls.resume)
    extend = on_sandbox(calls.extend)
    destroy = on_sandbox(calls.destroy)
    read_file = on_sandbox(calls.read_file)
    write_file = on_sandbox(calls.write_file)
    edit_file = on_sandbox(calls.edit_file)
    delete_file = on_sandbox(calls.delete_file)
    stat_file = on_sandbox(calls.stat_file)
    list_files = on_sandbox(calls.list_files)
    snapshot = on_sandbox(calls.snapshot)
    snapshots = on_sandbox(calls.snapshots)
    restore = on_sandbox(calls.restore)
    branch = on_sandbox(calls.branch)
    delete_snapshot = on_sandbox(calls.delete_snapshot)
    diff = on_sandbox(calls.diff)
    generate_playbook = on_sandbox(calls.generate_playbook)
    request_approval = on_sandbox(calls.request_approval)
    open_pane = on_sandbox(calls.open_pane)
