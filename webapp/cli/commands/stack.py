"""Commands that run the programs of a stack, restart them and end them."""

from __future__ import annotations

import os
import sys

import click

from webapp.cli.settings_flags import SettingsCommand, load, load_running, load_with_sources

# Each command imports what it needs, so that --help is quick.

_programs = click.argument("programs", nargs=-1, metavar="[PROGRAM]...")


@click.command(cls=SettingsCommand)
def serve() -> None:
    """Run the whole stack in the foreground.

    Prepares the model where that was not done, says "Ready: URL" after a first score, and ends on Ctrl-C or TERM
    when what was admitted is finished.

    Examples:
      reranking serve
      reranking serve --port 9000 --state-dir /srv/reranking
      RERANK_API_KEYS=k1,k2 reranking serve --config /etc/reranking.yaml
    """
    from webapp.stack.serve import serve as run_stack  # noqa: PLC0415

    settings, sources = load_with_sources()
    run_stack(settings, sources.path)


@click.command(cls=SettingsCommand)
@click.option("--reload", is_flag=True, help="Restart when a source file changes (development).")
@click.option("--bind", metavar="ADDRESS", help="host:port or unix:path; default: the settings' host and port.")
def run(*, reload: bool, bind: str | None) -> None:
    """Run the API alone, without nginx and supervisor.

    The model has to be prepared: reranking prepare.

    Examples:
      reranking run --reload --engine stub
      reranking run --bind unix:/tmp/reranking.sock
    """
    from gunicorn.app.wsgiapp import WSGIApplication  # noqa: PLC0415

    from webapp.config.paths import ROOT  # noqa: PLC0415

    settings = load()
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    sys.argv = ["reranking", "-c", str(ROOT / "gunicorn_config.py"), "-b", bind or f"{settings.host}:{settings.port}"]
    if reload:
        sys.argv.append("--reload")
        os.environ["WEBAPP_RELOAD"] = "1"  # read by gunicorn_config.py
    WSGIApplication("%(prog)s").run()


@click.command(cls=SettingsCommand)
def balance() -> None:
    """Divide requests over the stacks of other machines, in the foreground.

    RERANK_STACKS names them. HUP reads the settings again; Ctrl-C or TERM finishes what is at work. Its limits are in
    docs/scaling.md.

    Examples:
      reranking balance --stacks http://10.0.0.7:8080,http://10.0.0.8:8080 --host 0.0.0.0
      reranking balance --config /etc/reranking-balancer.yaml
    """
    from webapp.stack.balance import balance as run_balancer  # noqa: PLC0415

    run_balancer(load(), load)


@click.command(cls=SettingsCommand)
@click.option("--listen", default="0.0.0.0:8081", show_default=True, metavar="HOST:PORT", help="For the stacks' nginx.")
@click.option(
    "--events-listen",
    default="tcp://0.0.0.0:5557",
    show_default=True,
    metavar="ADDRESS",
    help="For workers: tcp://HOST:PORT.",
)
def pusher(*, listen: str, events_listen: str) -> None:
    """Run one pusher for several stacks, in the foreground.

    Stacks with RERANK_PUSHER_URL=http://HOST:8081 and RERANK_EVENTS_ENDPOINT=tcp://HOST:5557 run none of their own, so
    each shows and follows what any of them does. All of them and the pusher need the same RERANK_EVENTS_KEY. It answers
    the stacks' nginx alone: keep its ports from others. docs/progress.md says more.

    Examples:
      RERANK_EVENTS_KEY=$(openssl rand -hex 32) reranking pusher
      reranking pusher --listen 127.0.0.1:8081 --events-listen tcp://127.0.0.1:5557
    """
    from webapp.stack.pusher import push  # noqa: PLC0415

    settings, sources = load_with_sources()
    push(settings, sources.path, listen, events_listen)


@click.command(cls=SettingsCommand)
@_programs
def restart(*, programs: tuple[str, ...]) -> None:
    """Restart the webapp that serves, or PROGRAMs: webapp, pusher, metrics, nginx.

    The webapp takes over changed settings and loses no request: those at work are finished, those that come meanwhile
    wait. A restart of nginx finishes what is at work and refuses connections for a moment. To change to another model
    without a wait, use reranking deploy.

    Examples:
      reranking restart
      reranking restart webapp pusher
    """
    from webapp.stack import control  # noqa: PLC0415

    control.restart(load_running(), programs, click.echo)


@click.command(cls=SettingsCommand)
def reload() -> None:
    """Have a running stack read its API keys and its certificate again, as HUP does.

    Both are checked first; what is wrong there is refused. No request is lost. It takes over no other setting: that
    is what reranking restart is for.

    Example:
      reranking reload
    """
    from webapp.stack import control  # noqa: PLC0415

    control.reload(load_running())
    click.echo("the stack reads keys and certificate again; new workers take over within seconds")


@click.command(cls=SettingsCommand)
@click.option("--notice-s", type=float, default=5.0, show_default=True, help="How long /ready says 503 first.")
@click.option("--stop/--no-stop", default=True, help="Stop the stack after the notice, or leave that to others.")
def drain(*, notice_s: float, stop: bool) -> None:
    """Take a running stack out of service; no request is refused or lost.

    During the notice /ready says 503, for balancers, while requests are served, and each reply closes its caller's
    connection. Ctrl-C takes the notice back.

    Examples:
      reranking drain --notice-s 15
      reranking drain --notice-s 10 --no-stop
    """
    from webapp.stack import control  # noqa: PLC0415

    control.drain(load_running(), notice_s=notice_s, stop=stop, say=click.echo)


@click.command(cls=SettingsCommand)
@_programs
def stop(*, programs: tuple[str, ...]) -> None:
    """Stop the stack as TERM does, or PROGRAMs that it can do without: the idle webapp, pusher, metrics.

    Requests that were admitted are finished; the command returns when all has ended. Behind a load balancer, use
    reranking drain, which lets /ready say 503 first.

    Examples:
      reranking stop
      reranking stop webapp-green
    """
    from webapp.stack import control  # noqa: PLC0415

    control.stop(load_running(), programs, click.echo)
