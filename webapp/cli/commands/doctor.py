"""`reranking doctor`."""

from __future__ import annotations

import dataclasses
import json

import click

from webapp.cli.settings_flags import SettingsCommand, load_candidate

SOMETHING_BAD = 5

MARKS = {"good": ("ok", "green"), "poor": ("poor", "yellow"), "bad": ("BAD", "red")}


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(*, as_json: bool) -> None:
    """Check what is wrong here, and name the remedies.

    If a stack runs in the state directory its settings are checked, or those of --config instead.

    Model files against their sha256, directories and their permissions, disk, memory, processor, limits, ports,
    sockets, keys, certificate, nginx, Redis. Exit codes: 0 nothing is bad, 5 something has to be mended before it
    serves.

    Examples:
      reranking doctor
      reranking doctor --config candidate.yaml
    """
    from webapp.stack.doctor import examine  # noqa: PLC0415

    findings = []
    for finding in examine(load_candidate()):
        findings.append(finding)
        if not as_json:
            mark, color = MARKS[finding.verdict]
            click.echo(f"{click.style(f'{mark:4}', fg=color)}  {finding.about:15}  {finding.seen}")
            if finding.remedy:
                click.echo(f"{'':6}{'':15}  -> {finding.remedy}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    if any(finding.verdict == "bad" for finding in findings):
        click.get_current_context().exit(SOMETHING_BAD)
