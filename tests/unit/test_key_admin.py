import pytest

from contracts.api_keys import KeyRing, read_file
from webapp.cli import main
from webapp.domain.errors import SetupError
from webapp.stack import key_admin


@pytest.fixture
def keys(monkeypatch, tmp_path, capsys):
    """The command, on a file that the settings name; returns what it prints."""
    monkeypatch.setenv("RERANK_API_KEYS_FILE", str(tmp_path / "keys"))

    def run(*arguments):
        try:
            main(["keys", *arguments])
        except SystemExit as end:
            said = capsys.readouterr()
            return said.err if end.code else said.out

    run.file = tmp_path / "keys"
    return run


def test_a_key_is_shown_once_and_its_hash_is_kept_for_this_user_alone(keys):
    made = keys("add", "search").strip()
    assert made not in keys.file.read_text()
    assert keys.file.stat().st_mode & 0o777 == 0o600
    assert KeyRing(file=str(keys.file)).find([made])[0].name == "search"
    assert made not in keys("list")
    assert keys("list").startswith("search sha256:")


def test_limits_and_operators_are_kept(keys):
    keys("add", "boss", "--operator", "--requests", "60", "--documents", "0")
    (key,), _ = read_file(keys.file)
    assert (key.operator, key.requests_per_minute, key.documents_per_minute) == (True, 60, 0)


def test_a_key_is_replaced_by_adding_one_and_removing_the_oldest(keys):
    keys.file.write_text("# ours\n")
    first, second = keys("add", "a").strip(), keys("add", "a").strip()
    ring = KeyRing(file=str(keys.file))
    assert ring.find([first])
    assert ring.find([second])
    keys("remove", "a", "--oldest")
    ring.reload()
    assert ring.find([first]) is None
    assert ring.find([second])
    keys("remove", "a")
    assert keys.file.read_text() == "# ours\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["add", "two words"], "a name is up to 64"),
        (["add", "self"], "a name is up to 64"),
        (["add", "a", "--requests", "-1"], "-1 is not in the range"),
        (["remove", "nobody"], "there is no key of 'nobody'"),
        (["remove", "a", "--file", "/nowhere/keys"], "/nowhere/keys can't be changed"),
        (["add", "a", "--file", "/nowhere/keys"], "/nowhere/keys can't be changed"),
    ],
)
def test_what_can_t_be_done_is_one_line(keys, arguments, complaint):
    keys.file.touch()
    said = keys(*arguments)
    assert complaint in said
    assert said.count("\n") == 1


def test_without_a_file_it_says_how_to_name_one(keys, monkeypatch):
    monkeypatch.delenv("RERANK_API_KEYS_FILE")
    assert "set RERANK_API_KEYS_FILE or give --file" in keys("list")


def test_a_file_that_can_t_be_changed_and_a_name_that_is_ours_are_refused(tmp_path):
    limits = {"operator": False, "requests": None, "documents": None}
    with pytest.raises(SetupError, match="can't be changed"):
        key_admin.add(tmp_path / "nowhere" / "keys", "search", **limits)
    with pytest.raises(SetupError, match="a name is up to 64 letters"):
        key_admin.add(tmp_path / "keys", "two words", **limits)
    assert key_admin.add(tmp_path / "keys", "search", **limits) not in key_admin.listing(tmp_path / "keys")[0]
