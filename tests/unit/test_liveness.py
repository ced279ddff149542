"""Programs that run and do not answer."""

import socket
import threading
from collections import Counter
from contextlib import closing

import pytest

from webapp.config.settings import Settings
from webapp.stack.repair import MISSES, count_misses, hung


@pytest.fixture
def settings(tmp_path):
    made = Settings(state_dir=tmp_path)
    made.run_dir.mkdir()
    return made


def listening(address, backlog=8):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(backlog)
    return listener


def test_a_program_that_accepts_and_never_answers_hangs_and_one_that_is_down_does_not(settings):
    assert hung(settings, 0.1) == []
    with closing(listening(settings.pusher_socket)):
        assert hung(settings, 0.1) == ["pusher"]
    assert hung(settings, 0.1) == [], "nobody listens any more"


def test_a_program_with_a_full_backlog_hangs(settings):
    with closing(listening(settings.metrics_socket, 0)), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(settings.metrics_socket))
        assert hung(settings, 0.1) == ["metrics"]


def test_a_program_that_gives_any_answer_does_not_hang(settings):
    with closing(listening(settings.pusher_socket)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 500 No\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        assert hung(settings, 60) == []
        answering.join()


def test_a_program_is_ended_after_misses_in_a_row_and_given_as_many_again():
    ended, misses = [], Counter()

    def look(*names):
        nonlocal misses
        misses, lost = count_misses(misses, names)
        ended.extend(lost)
        return list(ended)

    for _ in range(MISSES - 1):
        assert look("pusher") == []
    assert look("metrics") == [], "it answered once"
    for _ in range(MISSES - 1):
        assert look("pusher") == []
    assert look("pusher") == ["pusher"]
    for _ in range(MISSES - 1):
        assert look("pusher") == ["pusher"], "the new one has its time, too"
    assert look("pusher") == ["pusher", "pusher"]
