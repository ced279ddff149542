"""`python -m webapp.stack.supervisor.logging`: supervisord that keeps all logs in one shape, and reacts without delay.

supervisord reads every byte that a program writes, also the last ones of a killed program, and it alone writes the log
files. So lines are put together and made JSON here: no process between a program and its log could die, fall behind or
lose lines. supervisord has no setting for this, so classes of ours replace some of its own (`install`). Each says which
one, and what supervisord would need for ours to go.

Nothing waits for a log or for its reader. supervisord writes from threads (`contracts.logging.writer`). The pipes of
its programs refuse at once what they have no room for, also while supervisord itself is stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import termios
import time
from collections.abc import Sequence
from typing import Any

from supervisor.medusa import asyncore_25 as asyncore
from supervisor.states import SupervisorStates

from contracts.logging.foreign import ours, translate
from contracts.logging.line import Form, head, renderer
from contracts.logging.lossy_pipe import PIPE_BYTES, refuse_when_full
from contracts.logging.writer import Complaint, File, Sink, Stream, Writer, close, never_wait
from supervisor import dispatchers, loggers, options, process, supervisord
from webapp.stack.processes import handle_stop_signals_in_forks

MOST_PENDING_BYTES = 64 * 1024
"""Longest line; a longer one is logged in parts."""

ROTATION = "STACK_LOG_ROTATION"
"""A variable for tests, "BYTES,FILES": the limit of every log file, and the older ones of it that are kept."""

_READ_BYTES = 128 * 1024
"""Most that supervisord reads at a time."""

_IGNORED = "running without any HTTP authentication checking"
"""A critical message about our unix socket at each start. Its file mode is the protection (`supervisord.conf`)."""

_LEVELS = {50: "critical", 40: "error", 30: "warning", 20: "info"}


class LogStore:
    """The log files, or stdout, and the form of their lines."""

    def __init__(self, *, to_stdout: bool, form: Form, color: str) -> None:
        self._form = form
        self._color = color
        self._render = renderer(form)
        self._files: dict[str, tuple[File, Writer]] = {}
        """Path -> its file and writer. A program that is started again goes on in its file."""
        self._failed = Complaint()
        self._stdout = self._writer(Stream(sys.stdout.fileno())) if to_stdout else None

    def line(self, line: bytes, service: str, pid: int, color: str = "") -> bytes:
        """Return a program's line in the form of the logs, with its newline."""
        text = line.decode(errors="replace")  # the path of a request may be any bytes
        event = ours(text)
        if event is not None and self._form == "json":
            return text.encode() + b"\n"
        event = event or translate(text, service=service, color=color or self._color, pid=pid, now=time.time())
        return self._render(event).encode() + b"\n"

    def own_line(self, level: int, message: str) -> bytes:
        """Return a message of supervisord itself in the form of the logs."""
        named, text = _LEVELS.get(level, "debug"), message.strip()
        event = head(time.time(), named, "supervisord", self._color, os.getpid(), "supervisor", text)
        return self._render(event).encode() + b"\n"

    def note(self, message: str) -> bytes:
        """Return the line that stands in place of dropped lines."""
        return self.own_line(loggers.LevelsByName.WARN, message)

    def open(self, logger: loggers.Logger, path: str, maxbytes: int, backups: int) -> None:
        """Let a logger write to its file, or to our stdout."""
        if self._stdout:
            # Not /dev/fd/1: it can't be opened where stdout is a socket, as it is under systemd.
            handler = Handler(self._stdout)
        else:
            if path not in self._files:
                if rotation := os.environ.get(ROTATION):
                    maxbytes, backups = map(int, rotation.split(","))
                file = File(path, limit_bytes=maxbytes, backups=backups)
                self._files[path] = file, self._writer(file)
            file, writer = self._files[path]
            writer.do(file.begin)  # it exists though nothing has been logged yet
            handler = Handler(writer, file)
        handler.setLevel(logger.level)
        logger.addHandler(handler)

    def close(self) -> None:
        """Wait until all lines are written, or until nothing moves any more."""
        close([*([self._stdout] if self._stdout else []), *(writer for _, writer in self._files.values())])

    def _writer(self, sink: Sink) -> Writer:
        return Writer(sink, self.note, failed=self._failed)


class Handler(loggers.Handler):  # type: ignore[misc] # supervisor has no types
    """Passes lines, and operations on the file, to a `Writer`'s thread.

    Replaces loggers.FileHandler and RotatingFileHandler, which write in supervisord's loop: a slow disk would stop it.
    Unnecessary when supervisord writes its logs from threads.
    """

    def __init__(self, writer: Writer, file: File | None = None) -> None:
        super().__init__()
        self._writer = writer
        self._file = file

    def emit(self, record: loggers.LogRecord) -> None:
        """Pass a line on. Its message is bytes in all loggers here."""
        self._writer.put(record.msg)

    def flush(self) -> None:
        """Do nothing: the writer does not buffer."""

    def close(self) -> None:
        """Do nothing: the program's next process goes on in the file."""

    def reopen(self) -> None:
        """Open the file again by its name at the next line."""
        if self._file:
            self._writer.do(self._file.close)

    def remove(self) -> None:
        """Remove the file."""
        if self._file:
            self._writer.do(self._file.remove)


class OwnLog(loggers.Logger):  # type: ignore[misc] # as above
    """supervisord's own log.

    Replaces loggers.Logger, whose lines are no JSON. Unnecessary when supervisord has a setting for their format.
    """

    def __init__(self, store: LogStore, level: int) -> None:
        super().__init__(level)
        self._store = store

    def log(self, level: int, msg: Any, **values: Any) -> None:
        """Log a message in the form of the logs."""
        text = loggers.as_string(msg)
        if _IGNORED not in text:
            super().log(level, self._store.own_line(level, text % values if values else text))


def _is_full(pipe: int) -> bool:
    """Return whether a pipe, by its reading end, takes no more lines."""
    unread = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    if int.from_bytes(unread, sys.byteorder) < MOST_PENDING_BYTES // 2:  # half of the smallest pipe: nearly always so
        return False
    with contextlib.suppress(OSError):
        end = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            room = select.poll()
            room.register(end, select.POLLOUT)
            return not room.poll(0)
        finally:
            os.close(end)
    return False


class Output(dispatchers.POutputDispatcher):  # type: ignore[misc] # as above
    """The output of a program, line by line.

    Replaces dispatchers.POutputDispatcher, which logs the bytes as they are read: parts of lines, in any format.
    Unnecessary when supervisord has a hook for each line of a program.
    """

    store: LogStore

    def _init_normallog(self) -> None:
        config, channel = self.process.config, self.channel
        self._pending = b""
        self._was_full = False
        if path := getattr(config, f"{channel}_logfile"):
            self.normallog = config.options.getLogger()
            maxbytes = getattr(config, f"{channel}_logfile_maxbytes")
            self.store.open(self.normallog, path, maxbytes, getattr(config, f"{channel}_logfile_backups"))

    def handle_read_event(self) -> None:
        """Read as POutputDispatcher does; warn of a full pipe first: nginx does not count the lines it drops."""
        full = _is_full(self.fd)
        if full and not self._was_full:
            message = "%(name)s wrote faster than its lines were read: some may be lost"
            self.process.config.options.logger.warn(message, name=self.process.config.name)  # noqa: G010 - its own
        self._was_full = full
        super().handle_read_event()

    def _log(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > MOST_PENDING_BYTES:
            lines, self._pending = [*lines, self._pending], b""
        self._log_lines(lines)

    def _log_lines(self, lines: Sequence[bytes]) -> None:
        service, _, color = self.process.config.name.partition("-")  # webapp-blue
        pid = self.process.pid
        # One by one: the writer may rotate the file between two lines, never within one.
        for line in lines:
            if line.strip():
                try:
                    kept = self.store.line(line, service, pid, color)
                except Exception:  # noqa: BLE001 - supervisord would read no more of a program whose pipe then fills up
                    kept = line + b"\n"
                super()._log(kept)

    def read_rest(self) -> None:
        """Read what a dead program's pipe still holds, and close it. Its children may write on; don't wait for them."""
        for _ in range(PIPE_BYTES // _READ_BYTES):
            if not self.closed:  # a read closes it when nothing is left
                self.handle_read_event()
        self.close()

    def close(self) -> None:
        """Log the last line, which may have no newline, and close as POutputDispatcher does."""
        pending, self._pending = self._pending, b""
        self._log_lines([pending])
        super().close()


class Program(process.Subprocess):  # type: ignore[misc] # as above
    """A program whose last lines are logged, however it ended.

    Replaces process.Subprocess, which reads an eighth of a full pipe when a program has ended, and closes it.
    Unnecessary when supervisord reads until the pipe is empty.
    """

    def drain(self) -> None:
        """Read what is left in the pipes."""
        super().drain()
        for output in self.dispatchers.values():
            if isinstance(output, Output):
                output.read_rest()


class Options(options.ServerOptions):  # type: ignore[misc] # as above
    """supervisord's options, with our log and with pipes that never block a program.

    Replaces options.ServerOptions. Unnecessary when supervisord has settings for the format of its log, and for pipes
    that refuse what they have no room for.
    """

    store: LogStore

    def make_logger(self) -> None:
        """Make the log, and log the messages of the time before it."""
        self.logger = OwnLog(self.store, self.loglevel)
        self.store.open(self.logger, self.logfile, self.logfile_maxbytes, self.logfile_backups)
        for log, messages in (
            (self.logger.critical, self.parse_criticals),
            (self.logger.warn, self.parse_warnings),
            (self.logger.info, self.parse_infos),
        ):
            for message in messages:
                log(message)

    def execve(self, filename: str, argv: list[str], env: dict[str, str]) -> None:
        """Run a program in a forked child. Until it has a handler of its own, HUP does not end it.

        A reload reaches every program, also one that has just begun. What it would read again, it reads as it starts.
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # that outlives exec
        super().execve(filename, argv, env)

    def make_pipes(self, stderr: bool = True) -> dict[str, int | None]:  # noqa: FBT001, FBT002 - as supervisor has it
        """Make pipes that take what they have room for and refuse the rest at once, so no program waits for us."""
        pipes: dict[str, int | None] = super().make_pipes(stderr)
        for name in ("child_stdout", "child_stderr"):
            if (descriptor := pipes[name]) is not None:
                refuse_when_full(descriptor)
        return pipes


class SelfPipe(asyncore.dispatcher):  # type: ignore[misc] # as above
    """A socket that ends supervisord's sleep when a signal comes.

    Python (PEP 475) resumes the sleep after a signal, up to a second. One of the dispatchers in supervisord's
    `socket_map`. Unnecessary when supervisord calls signal.set_wakeup_fd itself.
    """

    def __init__(self, supervisord_options: Any) -> None:
        self._options = supervisord_options
        read_end, self._write_end = socket.socketpair()
        super().__init__(read_end, supervisord_options.get_socket_map())
        self._write_end.setblocking(False)
        signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)  # it only has to be readable

    def writable(self) -> bool:
        """Return False: there is never anything to write."""
        return False

    def handle_read(self) -> None:
        """Take one byte. supervisord has noted the signal and handles one a turn, so other bytes wake it again."""
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(1)

    def handle_error(self) -> None:
        """Log the error and close: from now on a signal waits for the end of supervisord's sleep, up to a second."""
        self._options.logger.critical("signals no longer wake supervisord: %(error)r", error=sys.exception())
        self.close()

    def close(self) -> None:
        """Remove the wakeup descriptor; do nothing if that is done."""
        if self._fileno is not None:
            signal.set_wakeup_fd(-1)
            self._write_end.close()
            super().close()


class PromptSupervisor(supervisord.Supervisor):  # type: ignore[misc] # as above
    """supervisord that starts, stops and restarts programs without a second of sleep before each.

    Nor does it restart itself at HUP or `supervisorctl reload`: all programs would end, and nginx' port would close.
    Replaces supervisord.Supervisor. Unnecessary when supervisord makes its programs' transitions before it sleeps,
    stops empty groups at once, and lets an extension handle HUP.
    """

    def reload(self) -> None:
        """Do nothing; `webapp.stack.supervisor.plugin` replaces this method."""

    def handle_signal(self) -> None:
        """Handle a signal as Supervisor does, but reload instead of a restart."""
        super().handle_signal()
        if self.options.mood == SupervisorStates.RESTARTING:
            self.options.mood = SupervisorStates.RUNNING
            self.reload()

    def runforever(self) -> None:
        """Start programs, then loop as Supervisor does."""
        wake = SelfPipe(self.options)
        try:
            self.reap()
            super().runforever()
        finally:
            wake.close()

    def reap(self, *args: Any, **kwargs: Any) -> None:
        """Reap as Supervisor does, and start again now, not after the next sleep, what has died."""
        super().reap(*args, **kwargs)
        for group in sorted(self.process_groups.values()):
            group.transition()

    def ordered_stop_groups_phase_1(self) -> None:
        """Stop the last group; skip groups that have nothing to stop, which would take a turn each."""
        super().ordered_stop_groups_phase_1()
        while self.stop_groups and not self.stop_groups[-1].get_unstopped_processes():
            self.stop_groups.pop()
            super().ordered_stop_groups_phase_1()


def install(store: LogStore) -> None:
    """Replace supervisord's classes by ours."""
    Output.store = Options.store = store
    dispatchers.POutputDispatcher = Output
    process.Subprocess = Program
    supervisord.ServerOptions = Options
    supervisord.Supervisor = PromptSupervisor


def main() -> None:
    """Run supervisord; our own options come first, supervisord's after them."""
    parser = argparse.ArgumentParser(prog="python -m webapp.stack.supervisor.logging", description=__doc__)
    parser.add_argument("--to", choices=("files", "stdout"), default="files")
    parser.add_argument("--form", choices=("json", "human", "color"), default="json")
    parser.add_argument("--color", default="")
    chosen, rest = parser.parse_known_args()
    store = LogStore(to_stdout=chosen.to == "stdout", form=chosen.form, color=chosen.color)
    never_wait(store.note, "stderr")
    install(store)
    handle_stop_signals_in_forks()
    try:
        supervisord.main(rest)
    finally:
        store.close()


if __name__ == "__main__":
    main()
