import pytest

from contracts.api_keys import Key, KeyRing, digest_of, line_of
from contracts.events import keys_in, owner_of
from pusher.access import Access, room_for, rooms_of


def access(api="", operators=""):
    return Access(KeyRing(api.replace(" ", ",")), KeyRing(operators.replace(" ", ",")))


@pytest.mark.parametrize(
    ("api", "operators", "key", "may_enter", "is_operator"),
    [
        ("", "", "", True, True),
        ("", "", "anything", True, True),
        ("k1 k2", "", "", False, False),
        ("k1 k2", "", "k3", False, False),
        ("k1 k2", "", "k2", True, True),
        ("k1", "op", "k1", True, False),
        ("k1", "op", "op", True, True),
        ("k1", "op", "", False, False),
        ("", "op", "", True, False),
        ("", "op", "op", True, True),
        ("k1", "", "kÿ\udcff", False, False),
    ],
)
def test_keys_decide_whether_a_caller_may_enter_and_is_an_operator(api, operators, key, may_enter, is_operator):
    viewer = access(api, operators).viewer([key] if key else [])
    assert (viewer is not None) == may_enter
    assert bool(viewer and viewer.operator) == is_operator


def test_a_caller_sees_its_own_requests_an_operator_everybody_s():
    guarded = access("k1 k2", "op")
    first, operator = guarded.viewer(["k1"]), guarded.viewer(["op"])
    assert first.may_see(owner_of("k1"))
    assert not first.may_see(owner_of("k2"))
    assert not first.may_see("")
    assert operator.may_see(owner_of("k2"))


def test_without_api_keys_no_request_has_an_owner_and_a_key_that_is_sent_anyway_changes_nothing():
    assert access(operators="op").viewer(["anything"]).may_see("")


def test_a_key_file_marks_operators_and_without_one_every_key_sees_everything(tmp_path):
    file = tmp_path / "keys"
    file.write_text(line_of(Key("a", digest_of("k1"))))
    assert Access(KeyRing(file=str(file)), KeyRing()).viewer(["k1"]).operator
    file.write_text(f"{line_of(Key('a', digest_of('k1')))}\n{line_of(Key('boss', digest_of('op'), operator=True))}\n")
    keys = KeyRing(file=str(file))
    assert not Access(keys, KeyRing()).viewer(["k1"]).operator
    assert Access(keys, KeyRing()).viewer(["wrong", "op"]).operator
    assert Access(keys, KeyRing()).viewer(["wrong"]) is None
    file.write_text("")
    keys.reload()
    assert Access(keys, KeyRing()).viewer([]) is None


def test_news_reaches_the_rooms_of_its_owner_and_of_operators_only():
    guarded = access("k1 k2", "op")
    rooms = rooms_of("r", owner_of("k1"))
    assert room_for("r", guarded.viewer(["k1"])) in rooms
    assert room_for("r", guarded.viewer(["op"])) in rooms
    assert room_for("r", guarded.viewer(["k2"])) not in rooms
    assert room_for("other", guarded.viewer(["k1"])) not in rooms


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, ""),
        ({"Authorization": "Bearer k"}, "k"),
        ({"Authorization": "bearer  k "}, "k"),
        ({"Authorization": "k"}, "k"),
        ({"X-Api-Key": "k"}, "k"),
        ({"Api-Key": "k"}, "k"),
        ({"Authorization": "", "Api-Key": "k"}, "k"),
    ],
)
def test_a_key_is_found_in_every_header_that_clients_use(headers, key):
    assert next(keys_in(headers), "") == key
