"""Lines for a reader or a disk that stops, fails or is gone: real pipes, files and devices."""

import fcntl
import os
import re
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from running import PATIENCE_S, wait_for

from contracts.logging.lossy_pipe import Lossy, refuse_when_full
from contracts.logging.writer import WARN_EVERY_S, Complaint, File, Stream, Writer

LINE = b"a line of a log\n"


def note(message):
    return f"({message})\n".encode()


def count(text):
    """Lines that are there or that a note counts."""
    lost = sum(map(int, re.findall(rb"\((\d+) lines? w", text)))
    return text.count(LINE) + lost


class Pipe:
    """A real one, that nobody reads until a test does."""

    def __init__(self):
        self.end, self.descriptor = os.pipe()

    def fill(self):
        os.write(self.descriptor, b"x\n" * (fcntl.fcntl(self.descriptor, fcntl.F_GETPIPE_SZ) // 2))

    def read(self, until):
        """Read until it holds this."""
        text = b""
        while not re.search(until, text):
            assert select.select([self.end], [], [], PATIENCE_S)[0], text[-300:]
            text += os.read(self.end, 1 << 20)
        return text


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.end, pipe.descriptor):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_unread_lines_delay_no_writer_and_are_counted_once_they_are_read(pipe):
    pipe.fill()
    writer = Writer(Stream(pipe.descriptor), note, most_bytes=100 * len(LINE))
    for _ in range(10_000):
        writer.put(LINE)
    assert not writer.close(timeout_s=0), "there is something left"
    text = pipe.read(rb"lines were dropped")
    writer.put(b"after\n")
    text += pipe.read(rb"after\n")
    assert count(text) == 10_000
    assert re.search(rb"a line of a log\n\(\d+ lines were dropped: nothing took them in time\)\nafter\n$", text)
    assert writer.close(PATIENCE_S)


def test_what_waits_is_bounded(pipe):
    pipe.fill()
    writer = Writer(Stream(pipe.descriptor), note, most_bytes=50 * len(LINE))
    for _ in range(1000):
        writer.put(LINE)
    text = pipe.read(rb"dropped")
    assert 50 <= text.count(LINE) <= 50 + select.PIPE_BUF // len(LINE)


def test_a_slow_reader_gets_no_note_after_each_line(pipe):
    pipe.fill()
    writer = Writer(Stream(pipe.descriptor), note, most_bytes=4000 * len(LINE))
    for _ in range(8000):
        writer.put(LINE)
    os.read(pipe.end, 4096)  # one page: the thread takes two steps, then waits again
    for _ in range(8000):
        writer.put(LINE)
    text = pipe.read(rb"dropped")
    assert text.count(b"dropped") == 1
    assert count(text) == 16_000


def test_a_pipe_that_another_process_made_non_blocking_loses_nothing(pipe):
    os.set_blocking(pipe.descriptor, False)
    writer = Writer(Stream(pipe.descriptor), note)
    for _ in range(50_000):
        writer.put(LINE)
    writer.put(b"end\n")
    assert count(pipe.read(rb"end\n$")) == 50_000


def test_a_reader_that_is_gone_is_told_of_and_no_error(pipe):
    failed = []
    writer = Writer(Stream(pipe.descriptor), note, failed=lambda name, error: failed.append((name, error.strerror)))
    os.close(pipe.end)
    for _ in range(3):
        writer.put(LINE)
        assert writer.close(PATIENCE_S)
    assert failed == [(f"descriptor {pipe.descriptor}", "Broken pipe")] * 3


def test_a_file_goes_on_after_its_disk_was_full_and_holds_the_count(tmp_path):
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    failed = []
    writer = Writer(File(str(path)), note, failed=lambda name, error: failed.append((name, error.errno)))
    for _ in range(3):
        writer.put(LINE)
        writer.close(PATIENCE_S)
    assert set(failed) == {(str(path), 28)}
    path.unlink()
    file = writer._sink
    writer.do(file.close)
    writer.put(b"after\n")
    assert writer.close(PATIENCE_S)
    assert path.read_bytes() == note("3 lines were dropped: nothing took them in time") + b"after\n"


FULL = """
import resource, sys
from contracts.logging.writer import File, Writer

failed = []
writer = Writer(File(sys.argv[1]), lambda message: f"({message})\\n".encode(), failed=lambda *why: failed.append(why))
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
for number in range(10):
    writer.put(b"a line of a log\\n")
    writer.close(60)
assert len(failed) == 4, failed
print(open(sys.argv[1]).read(), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, before)
writer.put(b"a line of a log\\n")
writer.close(60)
print(open(sys.argv[1]).read())
"""


def test_a_disk_that_becomes_full_leaves_no_part_of_a_line_in_a_file(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path / "log")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    full, _, after = said.partition("\n\n")
    line = LINE.decode()
    assert full + "\n" == 6 * line
    assert after.strip() + "\n" == 6 * line + "(4 lines were dropped: nothing took them in time)\n" + line


def test_a_line_that_was_written_in_part_spoils_no_other():
    class Sink:
        name, most_bytes, room, text = "sink", 10, 5, b""

        def begin(self):
            pass

        def write(self, data):
            if not self.room:
                raise OSError(28, "full")
            part = data[: self.room]
            self.room -= len(part)
            self.text += part
            return len(part)

    sink = Sink()
    writer = Writer(sink, note)
    writer.put(b"abcdefgh\n")
    writer.close(PATIENCE_S)
    sink.room = 1000
    writer.put(b"whole\n")
    writer.close(PATIENCE_S)
    assert sink.text == b"abcde\n(1 line was dropped: nothing took them in time)\nwhole\n"


def test_a_file_is_renamed_between_two_lines_and_old_ones_are_removed(tmp_path):
    path = tmp_path / "log"
    writer = Writer(File(str(path), limit_bytes=2 * len(LINE), backups=2), note)
    for number in range(9):
        writer.put(b"%015d\n" % number)
        assert writer.close(PATIENCE_S)
    kept = {each.name: [int(line) for line in each.read_text().split()] for each in tmp_path.iterdir()}
    assert kept == {"log": [8], "log.1": [6, 7], "log.2": [4, 5]}


def test_a_rotation_that_failed_is_no_end_of_the_log(tmp_path):
    path = tmp_path / "log"
    failed = []
    writer = Writer(File(str(path), limit_bytes=100, backups=1), note, failed=lambda *why: failed.append(why))
    (tmp_path / "log.1").mkdir()
    for _ in range(10):
        writer.put(LINE)
        writer.close(PATIENCE_S)
    assert len(failed) == 3
    (tmp_path / "log.1").rmdir()
    writer.put(b"after\n")
    writer.close(PATIENCE_S)
    told = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert count(told) == 10
    assert b"after\n" in told


def test_a_file_that_was_removed_or_renamed_is_made_anew(tmp_path):
    path = tmp_path / "log"
    file = File(str(path))
    writer = Writer(file, note)
    writer.put(b"first\n")
    writer.do(lambda: path.rename(tmp_path / "old"))
    writer.do(file.close)
    writer.put(b"second\n")
    writer.do(file.remove)
    writer.put(b"third\n")
    assert writer.close(PATIENCE_S)
    assert (path.read_text(), (tmp_path / "old").read_text()) == ("third\n", "first\n")


def test_a_log_that_fails_is_told_of_once_a_minute(capsys):
    now = 0.0
    complaint = Complaint(lambda: now)
    for now in (0.0, 1.0, WARN_EVERY_S - 1, WARN_EVERY_S):  # noqa: B007 - the clock reads it
        complaint("webapp.log", OSError(28, "No space left on device"))
    told = capsys.readouterr().err.splitlines()
    assert (
        told
        == ["webapp.log can't be written ([Errno 28] No space left on device): lines are lost, the service goes on"] * 2
    )


SPEAKS = """
import sys
from contracts.logging.writer import never_wait

never_wait(lambda message: f"({message})\\n".encode(), "stdout", "stderr")
print("begun", flush=True)
for _ in range(200_000):
    print("a line of a log", flush=True)
with open(sys.argv[1], "w") as done:
    done.write("all said")
print("last words", file=sys.stderr)
"""


def speaks(done, **streams):
    return subprocess.Popen([sys.executable, "-c", SPEAKS, str(done)], **streams)


def test_a_process_writes_all_its_lines_and_ends_though_its_output_is_not_read(tmp_path, pipe):
    with speaks(tmp_path / "done", stdout=pipe.descriptor, stderr=pipe.descriptor) as process:
        assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "done").read_text() == "all said"


@pytest.mark.parametrize("how", ["> /dev/full 2>&1", ">&- 2>&-", "2>&1 | true"])
def test_a_process_whose_output_goes_nowhere_goes_on(tmp_path, how):
    script = f'("$0" "$@"; echo $? > {tmp_path}/code) {how}'
    subprocess.run(["sh", "-c", script, sys.executable, "-c", SPEAKS, str(tmp_path / "done")], check=True)
    wait_for(lambda: (tmp_path / "code").exists() and (tmp_path / "code").read_text() == "0\n", "it ended with 0")
    assert (tmp_path / "done").read_text() == "all said", "and into no file that was opened meanwhile"


def test_a_reader_gets_every_line_of_a_process_that_ends_at_once(tmp_path):
    with speaks(tmp_path / "done", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        text = process.stdout.read()
    assert text.startswith(b"begun\n")
    assert b"last words\n" in text
    assert count(text) == 200_000


@pytest.fixture
def lossy(pipe):
    refuse_when_full(pipe.descriptor)
    return Lossy(pipe.descriptor, note)


def test_a_pipe_that_is_full_refuses_at_once_and_is_told_how_much(lossy, pipe):
    for _ in range(100_000):
        lossy.write(LINE)
    text = os.read(pipe.end, 1 << 20)
    assert text.endswith(LINE), "whole lines only"
    lossy.write(b"after\n")
    text += pipe.read(rb"after\n$")
    assert count(text) == 100_000
    assert text.count(b"dropped") == 1


def test_a_child_tells_nothing_of_what_its_parent_lost(lossy, pipe):
    for _ in range(100_000):
        lossy.write(LINE)
    os.read(pipe.end, 1 << 20)
    child = os.fork()
    if not child:
        lossy.write(b"child\n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(pipe.end, 1 << 20) == b"child\n"


def test_threads_may_write_to_a_full_pipe_together(lossy, pipe):
    threads = [threading.Thread(target=lambda: [lossy.write(LINE) for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert set(os.read(pipe.end, 1 << 20).splitlines(keepends=True)) == {LINE}


QUIET = """
import faulthandler, logging, os, sys, threading, warnings
from contracts.logging.configure import configure

configure(level="info", log_format="json", service="trial")
log = logging.getLogger("webapp")
for number in range(20_000):
    log.info("a line of a log")
print("from a library", file=sys.stderr, flush=True)
warnings.warn("from a library")
faulthandler.dump_traceback()

def fail():
    raise ValueError("planted")

thread = threading.Thread(target=fail)
thread.start()
thread.join()
os.write(int(sys.argv[1]), b"alive")
os.read(int(sys.argv[2]), 1)  # until somebody has read
log.info("after")
"""


def test_a_program_of_ours_goes_on_while_supervisord_reads_nothing_and_counts(pipe):
    refuse_when_full(pipe.descriptor)
    (told, tell), (hear, say) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", QUIET, str(tell), str(hear)]
    with subprocess.Popen(command, stderr=pipe.descriptor, pass_fds=[tell, hear]) as process:
        os.close(tell)
        assert os.read(told, 5) == b"alive"
        text = os.read(pipe.end, 1 << 20)
        os.write(say, b"x")
        assert process.wait(PATIENCE_S) == 0
    text += pipe.read(rb'"message":"after".*\n')
    dropped = int(re.search(rb'"level":"warning","service":"trial".*"message":"(\d+) lines were dropped', text)[1])
    assert text.count(b'"message":"a line of a log"') + dropped >= 20_000
    for descriptor in (told, hear, say):
        os.close(descriptor)


def test_the_log_of_a_stalled_disk_holds_up_no_other(tmp_path):
    os.mkfifo(tmp_path / "stalled")
    stalled, usual = (Writer(File(str(tmp_path / name)), note) for name in ("stalled", "usual"))
    for _ in range(100):
        stalled.put(LINE)
        usual.put(LINE)
    assert usual.close(PATIENCE_S)
    assert not stalled.close(timeout_s=0)
    assert count((tmp_path / "usual").read_bytes()) == 100
    with Path(tmp_path / "stalled").open("rb") as reader:  # the disk answers again
        assert reader.readline() == LINE
