"""Bodies that were sent compressed."""

import contextlib
import gzip
import json
import zlib

import pytest
from asking import post
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from webapp.api.content_encoding import coding_of, unpack
from webapp.domain.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

MOST = 100_000
BODY = json.dumps({"query": "q", "documents": [{"content": "bees"}, {"content": "milk"}]}).encode()


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZip", gzip.compress),
    (" gzip , identity", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd.compress),
    ("identity", bytes),
    ("", bytes),
]
PACKED = [(name, pack) for name, pack in PACKERS if pack is not bytes]


@pytest.mark.parametrize(("name", "pack"), PACKERS)
@pytest.mark.parametrize("path", ["/rerank", "/rerank/batch", "/v1/rerank"])
def test_a_packed_body_gets_the_answer_of_a_plain_one(client, name, pack, path):
    body = b"[" + BODY + b"]" if path == "/rerank/batch" else BODY
    plain, packed = (
        post(client, path, each, headers=headers)
        for each, headers in (
            (body, {}),
            (pack(body), {"Content-Encoding": name}),
        )
    )
    assert packed.status_code == plain.status_code == 200
    assert (packed.json[0] if path == "/rerank/batch" else packed.json)["results"] == (
        plain.json[0] if path == "/rerank/batch" else plain.json
    )["results"]


def test_a_packed_text_is_tokenised(client):
    body, headers = b'{"inputs": "bees find home"}', {"Content-Encoding": "gzip"}
    assert post(client, "/tokenize", gzip.compress(body), headers=headers).json == post(client, "/tokenize", body).json


@pytest.mark.parametrize("name", ["br", "compress", "gzip, gzip", "gzip, br", "rot13", "x-deflate"])
@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/rerank/batch", "/tokenize", "/predict"])
def test_another_coding_gets_415_and_the_list_of_those_that_are_accepted(client, name, path):
    reply = post(client, path, BODY, headers={"Content-Encoding": name})
    assert reply.status_code == 415
    assert reply.headers["Accept-Encoding"] == "gzip, deflate, zstd, identity"
    assert "must be one of gzip, deflate, zstd, identity" in reply.text


@pytest.mark.parametrize(("name", "pack"), PACKED)
def test_a_body_that_was_cut_off_gets_400(client, name, pack):
    packed = pack(BODY)
    for length in range(1, len(packed)):
        assert post(client, "/rerank", packed[:length], headers={"Content-Encoding": name}).status_code == 400, length


@pytest.mark.parametrize(("name", "pack"), PACKED)
@pytest.mark.parametrize("rest", [b"x", b"\0\0\0\0", b"rest of something else", zlib.compress(b"{}")])
def test_a_body_that_something_follows_gets_400(client, name, pack, rest):
    assert post(client, "/rerank", pack(BODY) + rest, headers={"Content-Encoding": name}).status_code == 400


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_body_that_is_not_packed_gets_400(client, name):
    reply = post(client, "/rerank", BODY, headers={"Content-Encoding": name})
    assert reply.status_code == 400
    assert "Content-Encoding" in reply.text


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_an_empty_body_is_said_to_be_empty(client, name):
    reply = post(client, "/rerank", b"", headers={"Content-Encoding": name})
    assert reply.status_code == 400
    assert "the body is empty" in reply.text


@pytest.mark.parametrize(("name", "pack"), PACKED)
def test_a_bomb_gets_413(client, name, pack):
    reply = post(client, "/rerank", pack(b" " * 10_000_000), headers={"Content-Encoding": name})
    assert reply.status_code == 413
    assert "unpacks to more than" in reply.text


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_body_of_several_members_is_read_to_its_end(pack):
    coding = "gzip" if pack is gzip.compress else "zstd"
    assert unpack(b"".join(pack(b"%d " % number) for number in range(3000)), coding, MOST).split()[-1] == b"2999"


class Counting:
    """A bomb's unpacker: counts what came out."""

    def __init__(self, unpacker):
        self._unpacker = unpacker
        self.bytes_out = 0

    def decompress(self, data, most):
        part = self._unpacker.decompress(data, most)
        self.bytes_out += len(part)
        return part

    def __getattr__(self, name):
        return getattr(self._unpacker, name)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_no_more_of_a_bomb_is_unpacked_than_the_limit(monkeypatch, coding):
    from webapp.api import content_encoding

    made = []
    plain = content_encoding._UNPACKERS[coding]
    counting = lambda data: made.append(Counting(plain(data))) or made[-1]  # noqa: E731
    monkeypatch.setattr(content_encoding, "_UNPACKERS", {coding: counting})
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}[coding](b" " * 10_000_000)
    with pytest.raises(PayloadTooLargeError):
        unpack(bomb, coding, MOST)
    assert sum(each.bytes_out for each in made) == MOST + 1


@given(st.binary(max_size=2000), st.sampled_from(PACKED))
def test_what_was_packed_is_unpacked(data, packer):
    name, pack = packer
    assert unpack(pack(data), coding_of(name), MOST) == data


@given(st.binary(max_size=500), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_no_bytes_make_unpacking_fail_otherwise(data, coding):
    with contextlib.suppress(InvalidRequestError, PayloadTooLargeError):
        unpack(data, coding, MOST)


@given(st.text(max_size=50))
def test_no_header_makes_it_fail_otherwise(header):
    with contextlib.suppress(UnsupportedEncodingError):
        assert coding_of(header) in {"", "gzip", "deflate", "zstd"}
