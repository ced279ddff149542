import hmac
import itertools

import pytest

from contracts import api_keys as module
from contracts.api_keys import Key, KeyFileError, KeyRing, digest_of, line_of, make_own, new_key, own_key, read_file

HASH = f"sha256:{digest_of('k').hex()}"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


def test_a_line_says_all_that_there_is_of_a_key(file):
    known = [
        Key("a", digest_of("x")),
        Key("b.c-d_1", digest_of("y"), operator=True, requests_per_minute=0, documents_per_minute=9),
    ]
    file.write_text("# whose they are\n\n" + "".join(f"  {line_of(key)}  # since May\n" for key in known))
    assert read_file(file) == (known, [])


@pytest.mark.parametrize(
    "line",
    [
        "a",
        f"{HASH}",
        "a k",
        "a sha256:abc",
        f"a {HASH}0",
        f"a {HASH.upper()}",
        f"a {HASH} boss",
        f"a {HASH} requests=-1",
        f"a {HASH} requests=",
        f"a {HASH} documents=1e3",
        f"self {HASH}",
        f"a/b {HASH}",
        f"{'a' * 65} {HASH}",
    ],
)
def test_a_line_that_is_wrong_is_named_opens_nothing_and_hides_no_other(file, line):
    file.write_text(f"good {HASH}\n{line}\nlast {HASH}\n")
    found, problems = read_file(file)
    assert [key.name for key in found] == ["good", "last"]
    assert len(problems) == 1
    assert f"{file}, line 2: " in problems[0]


def test_what_is_wrong_is_never_quoted_for_it_may_be_a_key(file):
    file.write_text("search rrk_a-real-key-put-there-by-mistake")
    assert "rrk_" not in str(read_file(file)[1])


def test_a_file_that_is_gone_or_empty_or_not_ours_alone_opens_nothing(file):
    def find(content, mode=0o600):
        file.write_bytes(content)
        file.chmod(mode)
        ring = KeyRing(file=str(file))
        with pytest.raises(KeyFileError, match=str(file)):
            ring.check()
        return ring.guarded, ring.find(["k", ""])

    good = f"a {HASH}".encode()
    assert find(b"") == (True, None)
    assert find(good, 0o666) == (True, None)
    assert find(b"\xff" + good) == (True, None)
    assert find(good + b"\n" * 1_000_001) == (True, None)
    file.unlink()
    assert KeyRing(file=str(file)).guarded


def test_reload_takes_keys_in_and_away(file):
    file.write_text(f"a {HASH}\n")
    ring = KeyRing(setting="fixed", file=str(file))
    ring.check()
    assert ring.find(["k"])[0].name == "a"
    file.write_text(f"b sha256:{digest_of('other').hex()}\n")
    ring.reload()
    assert ring.find(["k"]) is None
    assert ring.find(["wrong", "other"])[0].name == "b"
    assert ring.find(["fixed"])[0].name == "setting-1"


@pytest.mark.parametrize(
    "given",
    ["first", "second", "third", "thirx", "", "x" * 10_000, "\udcff"],
    ids=["first", "second", "third", "wrong at its end", "empty", "long", "no text"],
)
def test_every_comparison_is_of_whole_digests_with_every_key_in_constant_time(monkeypatch, given):
    """So the time says nothing, wherever a key differs and whichever key it is; no clock is needed to show it."""
    compared, really = [], hmac.compare_digest

    def compare(left, right):
        compared.append((left, right))
        return really(left, right)

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    ring = KeyRing("first,second,third")
    compared.clear()
    ring.find([given])
    assert [len(part) for part in itertools.chain(*compared)] == [32] * 6
    assert len({right for _, right in compared}) == 3


def test_nothing_that_is_kept_is_a_key():
    ring = KeyRing("secret-one")
    assert "secret-one" not in str(vars(ring)) + repr(ring.find(["secret-one"])[0])


def test_a_new_key_is_256_random_bits_behind_a_mark():
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("rrk_") and len(key) == 4 + 43 for key in made)


def test_the_stack_s_own_key_is_made_anew_for_this_user_alone(tmp_path):
    path = tmp_path / "own.key"
    assert own_key(path) == ""
    make_own(path)
    first = own_key(path)
    path.chmod(0o644)
    make_own(path)
    assert own_key(path) != first
    assert path.stat().st_mode & 0o777 == 0o600
    ring = KeyRing(own=path)
    assert not ring.guarded
    assert not ring.has_operators
    assert ring.find([own_key(path)])[0].name == "self"
