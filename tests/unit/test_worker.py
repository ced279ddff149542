import socket

from webapp.worker import HeadWithBody


class Recorder:
    def __init__(self):
        self.sent = []

    def sendall(self, data):
        self.sent.append(data)

    def sendfile(self, file):
        self.sent.append(file)


def test_head_and_first_part_of_the_body_leave_in_one_piece():
    wire = Recorder()
    connection = HeadWithBody(wire)
    connection.sendall(b"head;")
    assert wire.sent == []
    for part in (b"one;", b"two"):
        connection.sendall(part)
    connection.flush()
    assert wire.sent == [b"head;one;", b"two"]


def test_a_head_alone_is_sent_at_the_end():
    wire = Recorder()
    connection = HeadWithBody(wire)
    connection.sendall(b"head")
    connection.flush()
    connection.flush()
    assert wire.sent == [b"head"]


def test_a_file_follows_its_head():
    wire = Recorder()
    connection = HeadWithBody(wire)
    connection.sendall(b"head")
    connection.sendfile("file")
    connection.flush()
    assert wire.sent == [b"head", "file"]


def test_everything_else_is_the_sockets_own():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"peek")
        assert HeadWithBody(ours).recv(4, socket.MSG_PEEK) == b"peek"
