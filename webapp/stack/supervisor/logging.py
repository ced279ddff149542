"""`python -m webapp.stack.supervisor.logging`: supervisord, keeping the logs of its programs in one shape.

It sees every byte that a program writes, the last ones of a killed program too, and it alone writes the files. So it is
here that lines become whole and JSON: no process stands between a program and its log that could die, fall
behind or lose something. supervisord has no setting for this, so some of its classes are replaced by ours.

Nobody waits for a log, or for its reader. supervisord writes from threads (`contracts.logging.writer`). The pipes that
its programs write into take what they have room for and refuse the rest at once, be it while supervisord itself is
stopped.
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
from contracts.logging.line import Form, renderer, stamp
from contracts.logging.lossy_pipe import PIPE_BYTES, refuse_when_full
from contracts.logging.writer import Complaint, File, Sink, Stream, Writer, close, never_wait
from supervisor import dispatchers, loggers, options, process, supervisord
from webapp.stack.supervisor.forks import lose_no_stop

MOST_PENDING_BYTES = 64 * 1024
"""Of a line that has no end yet; then it is told in parts."""

_READ_BYTES = 128 * 1024
"""What supervisord reads at a time."""

_NO_NEWS = "running without any HTTP authentication checking"
"""Said of our Unix socket at each start, as critical; but who may use that is told by its mode (`supervisord.conf`)."""

_LEVELS = {50: "critical", 40: "error", 30: "warning", 20: "info"}


class LogKeeping:
    """How lines are kept: where, and in which form."""

    def __init__(self, *, to_stdout: bool, form: Form, color: str) -> None:
        self.to_stdout = to_stdout
        self.form = form
        self.color = color
        self._render = renderer(form)
        self._writers: dict[str, tuple[File, Writer]] = {}
        """Path -> its file and writer; a program that is started again goes on in its file."""
        self._failed = Complaint()
        self._stdout = self._writer(Stream(sys.stdout.fileno())) if to_stdout else None

    def line(self, line: bytes, service: str, pid: int, color: str = "") -> bytes:
        """A program's line as it is kept, its end included."""
        text = line.decode(errors="replace")  # the path of a request may be any bytes
        event = ours(text)
        if event is not None and self.form == "json":
            return text.encode() + b"\n"
        event = event or translate(text, service=service, color=color or self.color, pid=pid, now=time.time())
        return self._render(event).encode() + b"\n"

    def own_line(self, level: int, message: str) -> bytes:
        """What supervisord says itself."""
        event = {
            "time": stamp(time.time()),
            "level": _LEVELS.get(level, "debug"),
            "service": "supervisord",
            "color": self.color,
            "pid": os.getpid(),
            "logger": "supervisor",
            "message": message.strip(),
            "request_id": "",
        }
        return self._render(event).encode() + b"\n"

    def note(self, message: str) -> bytes:
        """What stands where lines were dropped."""
        return self.own_line(loggers.LevelsByName.WARN, message)

    def open(self, logger: loggers.Logger, path: str, maxbytes: int, backups: int) -> None:
        """Give a logger its file, or our stdout."""
        if self._stdout:
            # Not /dev/fd/1: it can't be opened where stdout is a socket, as it is under systemd.
            handler = Handler(self._stdout)
        else:
            if path not in self._writers:
                file = File(path, limit_bytes=maxbytes, backups=backups)
                self._writers[path] = file, self._writer(file)
            file, writer = self._writers[path]
            writer.do(file.begin)  # it is there though nothing has been said yet
            handler = Handler(writer, file)
        handler.setLevel(logger.level)
        logger.addHandler(handler)

    def close(self) -> None:
        """Wait for what is not written yet, as long as it moves."""
        close([*([self._stdout] if self._stdout else []), *(writer for _, writer in self._writers.values())])

    def _writer(self, sink: Sink) -> Writer:
        return Writer(sink, self.note, failed=self._failed)


class Handler(loggers.Handler):  # type: ignore[misc] # supervisor has no types
    """Hands lines to a `Writer`. What supervisord does to a log file is done there, too."""

    def __init__(self, writer: Writer, file: File | None = None) -> None:
        super().__init__()
        self._writer = writer
        self._file = file

    def emit(self, record: loggers.LogRecord) -> None:
        """Take a line; the loggers here have bytes."""
        self._writer.put(record.msg)

    def flush(self) -> None:
        """Do nothing; nobody waits for it."""

    def close(self) -> None:
        """Do nothing; the file goes on with the program's next process."""

    def reopen(self) -> None:
        """Go on in the file that has the name then."""
        if self._file:
            self._writer.do(self._file.close)

    def remove(self) -> None:
        """Remove the file."""
        if self._file:
            self._writer.do(self._file.remove)


class OwnLog(loggers.Logger):  # type: ignore[misc] # as above
    """supervisord's own log."""

    def __init__(self, keeping: LogKeeping, level: int) -> None:
        super().__init__(level)
        self._keeping = keeping

    def log(self, level: int, msg: Any, **values: Any) -> None:
        """One line."""
        text = loggers.as_string(msg)
        if _NO_NEWS not in text:
            super().log(level, self._keeping.own_line(level, text % values if values else text))


def _is_full(pipe: int) -> bool:
    """Return whether this pipe takes no more lines."""
    unread = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    if int.from_bytes(unread, sys.byteorder) < MOST_PENDING_BYTES // 2:  # half of the smallest pipe: as nearly always
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
    """What comes out of a program, line by line."""

    keeping: LogKeeping

    def _init_normallog(self) -> None:
        config, channel = self.process.config, self.channel
        self._pending = b""
        self._was_full = False
        if path := getattr(config, f"{channel}_logfile"):
            self.normallog = config.options.getLogger()
            maxbytes = getattr(config, f"{channel}_logfile_maxbytes")
            self.keeping.open(self.normallog, path, maxbytes, getattr(config, f"{channel}_logfile_backups"))

    def handle_read_event(self) -> None:
        """See POutputDispatcher; nginx does not count what it can't write."""
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
        self._keep(lines)

    def _keep(self, lines: Sequence[bytes]) -> None:
        service, _, color = self.process.config.name.partition("-")  # webapp-blue
        pid = self.process.pid
        # One by one: a file is changed between two lines, never within one.
        for line in lines:
            if line.strip():
                try:
                    kept = self.keeping.line(line, service, pid, color)
                except Exception:  # noqa: BLE001 - supervisord would read no more of a program whose pipe then fills up
                    kept = line + b"\n"
                super()._log(kept)

    def read_rest(self) -> None:
        """The program ended: take what its pipe still holds. Its children may go on writing; nobody waits for that."""
        for _ in range(PIPE_BYTES // _READ_BYTES):
            if not self.closed:  # at the end, and where nothing is left
                self.handle_read_event()
        self.close()

    def close(self) -> None:
        """The program ended; so does its last line."""
        pending, self._pending = self._pending, b""
        self._keep([pending])
        super().close()


class Program(process.Subprocess):  # type: ignore[misc] # as above
    """A program whose last lines are kept, however it ended."""

    def drain(self) -> None:
        """See Subprocess, which reads once of each pipe, an eighth of what it may hold; then they are closed."""
        super().drain()
        for output in self.dispatchers.values():
            if isinstance(output, Output):
                output.read_rest()


class Options(options.ServerOptions):  # type: ignore[misc] # as above
    """supervisord's options, with a log of ours."""

    keeping: LogKeeping

    def make_logger(self) -> None:
        """See ServerOptions; its own format is not JSON."""
        self.logger = OwnLog(self.keeping, self.loglevel)
        self.keeping.open(self.logger, self.logfile, self.logfile_maxbytes, self.logfile_backups)
        for tell, messages in (
            (self.logger.critical, self.parse_criticals),
            (self.logger.warn, self.parse_warnings),
            (self.logger.info, self.parse_infos),
        ):
            for message in messages:
                tell(message)

    def make_pipes(self, stderr: bool = True) -> dict[str, int | None]:  # noqa: FBT001, FBT002 - as supervisor has it
        """See ServerOptions; no program waits for us."""
        pipes: dict[str, int | None] = super().make_pipes(stderr)
        for name in ("child_stdout", "child_stderr"):
            if (descriptor := pipes[name]) is not None:
                refuse_when_full(descriptor)
        return pipes


class SelfPipe(asyncore.dispatcher):  # type: ignore[misc] # as above
    """Ends supervisord's sleep when a signal comes: Python by itself goes back to sleep for as long as was left.

    One of the sockets that `Supervisor.runforever` looks after.
    """

    def __init__(self, supervisord_options: Any) -> None:
        self._options = supervisord_options
        heard, self._told = socket.socketpair()
        super().__init__(heard, supervisord_options.get_socket_map())
        self._told.setblocking(False)
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)  # it only has to be readable

    def writable(self) -> bool:
        """There is never anything to write."""
        return False

    def handle_read(self) -> None:
        """Take one signal, as `Supervisor.handle_signal` does: the others wake it again. It is noted elsewhere."""
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(1)

    def handle_error(self) -> None:
        """Log what went wrong and close: from now on signals wait for the end of supervisord's sleep, a second."""
        self._options.logger.critical("signals no longer wake supervisord: %(error)r", error=sys.exception())
        self.close()

    def close(self) -> None:
        """Let go of the signals; a second time does nothing."""
        if self._fileno is not None:
            signal.set_wakeup_fd(-1)
            self._told.close()
            super().close()


class PromptSupervisor(supervisord.Supervisor):  # type: ignore[misc] # as above
    """supervisord that doesn't sleep away a second before each thing it does: a start, a stop, and after each death.

    Nor does it start itself anew, at HUP or `supervisorctl reload`: all programs would end, and nginx' port be closed.
    """

    def reload(self) -> None:
        """Do nothing; an extension puts here what is meant by it."""

    def handle_signal(self) -> None:
        """See Supervisor."""
        super().handle_signal()
        if self.options.mood == SupervisorStates.RESTARTING:
            self.options.mood = SupervisorStates.RUNNING
            self.reload()

    def runforever(self) -> None:
        """See Supervisor."""
        wake = SelfPipe(self.options)
        try:
            self.reap()
            super().runforever()
        finally:
            wake.close()

    def reap(self, *args: Any, **kwargs: Any) -> None:
        """See Supervisor; what has died is started again now, not after the next sleep."""
        super().reap(*args, **kwargs)
        for group in sorted(self.process_groups.values()):
            group.transition()

    def ordered_stop_groups_phase_1(self) -> None:
        """See Supervisor; groups that have nothing to stop take no turn of their own."""
        super().ordered_stop_groups_phase_1()
        while self.stop_groups and not self.stop_groups[-1].get_unstopped_processes():
            self.stop_groups.pop()
            super().ordered_stop_groups_phase_1()


def install(keeping: LogKeeping) -> None:
    """Make supervisord keep logs in this way, and start and stop programs without delay."""
    Output.keeping = Options.keeping = keeping
    dispatchers.POutputDispatcher = Output
    process.Subprocess = Program
    supervisord.ServerOptions = Options
    supervisord.Supervisor = PromptSupervisor


def main() -> None:
    """Our own options first, supervisord's after them."""
    parser = argparse.ArgumentParser(prog="python -m webapp.stack.supervisor.logging", description=__doc__)
    parser.add_argument("--to", choices=("files", "stdout"), default="files")
    parser.add_argument("--form", choices=("json", "human", "color"), default="json")
    parser.add_argument("--color", default="")
    chosen, rest = parser.parse_known_args()
    keeping = LogKeeping(to_stdout=chosen.to == "stdout", form=chosen.form, color=chosen.color)
    never_wait(keeping.note, "stderr")
    install(keeping)
    lose_no_stop()
    try:
        supervisord.main(rest)
    finally:
        keeping.close()


if __name__ == "__main__":
    main()
