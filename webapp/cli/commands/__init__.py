"""The commands, a module for each concern. `--help` loads them all, so none imports at its top what is heavy."""

from webapp.cli.commands.config import config
from webapp.cli.commands.inspection import doctor, logs, status
from webapp.cli.commands.keys import keys
from webapp.cli.commands.releases import deploy, prepare, rollback
from webapp.cli.commands.rerank import rerank
from webapp.cli.commands.stack import balance, drain, pusher, reload, restart, run, serve, stop

COMMANDS = (
    *(balance, config, deploy, doctor, drain, keys, logs, prepare),
    *(pusher, reload, rerank, restart, rollback, run, serve, status, stop),
)
