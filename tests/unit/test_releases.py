"""The pure parts of a deploy: shares, state, changes, steps and memory."""

import msgspec
import pytest

from webapp.api.dialects.registry import DIALECTS
from webapp.config.cards import Card
from webapp.config.resources import free_bytes
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import Golden, GoldenQuery
from webapp.stack.local_client import Reply
from webapp.stack.nginx.traffic_split import FALLBACK, LINKS, PERCENTS, point, shares_for
from webapp.stack.releases import checks, recovery, settings_diff, state, steps
from webapp.stack.releases.environment import environment, load_release, settings_with
from webapp.stack.releases.state import Attempt, Release


@pytest.mark.parametrize("percent", range(101))
def test_any_percentage_is_a_sum_of_shares(percent):
    assert sum(PERCENTS[place] for place in shares_for(percent)) == percent


def test_no_percentage_is_refused():
    with pytest.raises(ValueError, match="101"):
        shares_for(101)


def test_links_name_each_color_s_socket_and_a_killed_rename_is_no_obstacle(tmp_path):
    (tmp_path / "share-0.sock.new").symlink_to("left behind")
    point(tmp_path, "blue")
    point(tmp_path, "green", other="blue", percent=12, fallback="blue")
    named = [(tmp_path / LINKS[place]).readlink().name for place in range(len(PERCENTS))]
    assert [place for place, name in enumerate(named) if name == "webapp-green.sock"] == sorted(shares_for(12))
    assert (tmp_path / FALLBACK).readlink().name == "webapp-blue.sock"
    assert not list(tmp_path.glob("*.new"))


def test_state_is_read_as_it_was_written_and_for_its_owner_alone(tmp_path):
    colors = state.begin("green").with_release("blue", Release(number=2, settings={"RERANK_MODEL": "a"}))
    state.write(tmp_path, colors)
    assert state.read(tmp_path) == colors
    assert (tmp_path / state.FILE).stat().st_mode & 0o777 == 0o600


def test_missing_state_is_none(tmp_path):
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("rubbish", ["", "{", "[]", '{"active": "red", "idle": "blue", "serves": {}}', '{"active": 1}'])
def test_damaged_state_is_an_error(tmp_path, rubbish):
    (tmp_path / state.FILE).write_text(rubbish)
    with pytest.raises(SetupError, match=r"\.colors can't be read"):
        state.read(tmp_path)


def test_a_killed_deploy_gives_the_idle_color_back_what_it_had(tmp_path):
    was, now = Release(number=1), Release(number=3)
    attempt = Attempt(number=3, color="green", replaced=was)
    colors = state.Colors(
        active="blue", idle="green", serves={"blue": Release(number=2), "green": now}, attempt=attempt
    )
    assert recovery.undo_attempt(colors, tmp_path).serves["green"] == was
    assert recovery.undo_attempt(colors.switched(), tmp_path).serves["green"] == now, "the switch had been made"
    assert recovery.undo_attempt(colors, tmp_path).attempt is None


def test_history_stays_bounded():
    colors = state.begin("")
    for number in range(state.MOST_HISTORY + 5):
        colors = colors.with_entry(state.Entry(at="", number=number, color="blue", outcome="serving", what=""))
    assert len(colors.history) == state.MOST_HISTORY
    assert colors.history[-1].number == state.MOST_HISTORY + 4


def test_assignments_in_any_spelling():
    assert settings_diff.read_assignments(["workers=2", "RERANK_CACHE_MB= 3", "log-level="]) == {
        "RERANK_WORKERS": "2",
        "RERANK_CACHE_MB": "3",
        "RERANK_LOG_LEVEL": "",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("WORKERS", "is not NAME=VALUE"),
        ("WORKRES=2", "WORKRES is no setting; did you mean WORKERS?"),
        ("RELEASE=3", "no setting"),
        ("=2", "no setting"),
    ],
)
def test_what_is_no_assignment_gets_a_sentence(given, said):
    with pytest.raises(SetupError, match=said.replace("?", r"\?")):
        settings_diff.read_assignments([given])


def test_a_settings_file(tmp_path):
    file = tmp_path / "next.yaml"
    file.write_text("# for the new model\nworkers: 2\nstrict_model: true\ncache_mb:\n")
    assert settings_diff.read_file(file) == {
        "RERANK_WORKERS": "2",
        "RERANK_STRICT_MODEL": "true",
        "RERANK_CACHE_MB": "",
    }
    file.write_text("workres: 2")
    with pytest.raises(SetupError, match="did you mean workers"):
        settings_diff.read_file(file)
    with pytest.raises(SetupError, match="can't be read"):
        settings_diff.read_file(tmp_path / "nowhere")


def test_an_empty_value_gives_the_environment_s_back():
    assert settings_diff.combined({"RERANK_WORKERS": "2", "RERANK_CACHE_MB": "1"}, {"RERANK_WORKERS": ""}) == {
        "RERANK_CACHE_MB": "1"
    }


@pytest.mark.parametrize(
    ("new", "way"),
    [
        ({"workers": 2, "log_level": "debug"}, "hup"),
        ({"model": "another"}, "color"),
        ({"workers": 2, "precision": "fp32"}, "color"),
        ({"gate_min_tau": 0.5}, "color"),
        ({"instruction": "find bees"}, "color"),
        ({}, "color"),
    ],
)
def test_what_differs_says_which_way_a_deploy_goes(new, way):
    assert settings_diff.way_of(settings_diff.differing(Settings(), Settings(**new)), same_artifact=True) == way


def test_what_others_than_the_webapp_use_is_refused_by_name():
    differ = settings_diff.differing(Settings(), Settings(port=1, request_timeout_s=5, workers=2))
    with pytest.raises(SetupError, match="RERANK_PORT, RERANK_REQUEST_TIMEOUT_S"):
        settings_diff.way_of(differ, same_artifact=True)


def test_every_setting_of_the_artifact_is_a_setting_and_takes_more_than_a_reload():
    assert set(Settings.model_fields) - settings_diff.RELOADABLE >= settings_diff.ARTIFACT


def test_a_release_s_settings_are_this_process_environment_until_the_next_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("RERANK_COLOR", "blue")
    monkeypatch.setenv("RERANK_WORKERS", "3")
    assert load_release().workers == 3, "no stack has run here"
    release = Release(number=7, settings={"RERANK_WORKERS": "5", "RERANK_CACHE_MB": "1"})
    state.write(tmp_path, state.begin("blue").with_release("blue", release))
    assert [(s.workers, s.cache_mb, s.release) for s in (load_release(), load_release())] == [(5, 1, 7)] * 2
    served = load_release()
    assert load_release(served) is served, "HUP without a deploy"
    state.write(tmp_path, state.begin("blue"))
    assert (load_release(served).workers, load_release().cache_mb, load_release().release) == (3, 32, 1)
    (tmp_path / state.FILE).write_text("damaged")
    assert load_release(served) is served, "a service that runs goes on"
    with environment({"RERANK_WORKERS": "9"}):
        pass
    assert settings_with({"RERANK_CACHE_MB": "2"}).workers == 3


def said_by(tell):
    return lambda step, stage, said, _took_s: tell.append((step, stage, said))


def test_a_step_that_fails_has_itself_and_those_before_it_undone_in_reverse():
    undone, told = [], []

    def fails():
        raise SetupError("no")

    listed = [
        steps.Step("one", lambda: "1", lambda: undone.append("one")),
        steps.Step("two", lambda: "2"),
        steps.Step("three", fails, lambda: undone.append("three")),
        steps.Step("four", lambda: "4", lambda: undone.append("four")),
    ]
    with pytest.raises(steps.RefusedError, match=r"^refused at three: no$"):
        steps.run(listed, said_by(told))
    assert undone == ["three", "one"]
    assert told[-3:] == [("three", "failed", "no"), ("three", "undone", ""), ("one", "undone", "")]


def test_what_can_t_be_undone_is_told_and_the_others_are():
    undone, told = [], []

    def fails():
        raise OSError("gone")

    def interrupted():
        raise KeyboardInterrupt

    listed = [
        steps.Step("one", lambda: "", lambda: undone.append("one")),
        steps.Step("two", lambda: "", fails),
        steps.Step("three", interrupted),
    ]
    with pytest.raises(KeyboardInterrupt):
        steps.run(listed, said_by(told))
    assert undone == ["one"]
    assert ("two", "undone", "not wholly: gone") in told


def test_memory_that_a_new_color_takes_follows_its_workers_and_its_artifact():
    active = checks.Footprint(master=100, workers=(50, 70))
    assert active.with_workers(2) == 220
    assert checks.needed(active, workers=2, artifact_growth=-5) == round(1.1 * 220)
    assert checks.needed(active, workers=4, artifact_growth=10) == round(1.1 * (340 + 50))
    with pytest.raises(SetupError, match="two colors"):
        checks.room(10**9, 10**9)
    assert "953 MB beside" in checks.room(999_000_000, 10**10)


def test_a_new_worker_must_fit_beside_the_old_one_on_the_fullest_card():
    cards = [Card(f"GPU-{number}", "NVIDIA L4", 24 * 2**30, free * 2**30) for number, free in ((0, 20), (1, 9))]
    cards.append(Card("GPU-3", "NVIDIA GB10", 0, 0))  # it does not tell
    assert checks.room_on_cards(8 * 2**30, 2, cards) == "9,011 MB of a card, NVIDIA L4 has 9,216 MB free"
    assert checks.room_on_cards(9 * 2**30, 1, cards).endswith("20,480 MB free"), "the other card is not used"
    with pytest.raises(SetupError, match="two colors don't fit; restart the stack"):
        checks.room_on_cards(9 * 2**30, 2, cards)
    assert checks.room_on_cards(0, 2, cards) == checks.room_on_cards(8 * 2**30, 2, []) == "", "no card is used"
    assert free_bytes() > 0


def test_each_dialect_s_example_is_told_as_that_dialect():
    assert len({(checks.usual_path(dialect), dialect.name) for dialect in DIALECTS}) == len(DIALECTS)


class ColorThatScores:
    """A color whose model gives these raw scores."""

    def __init__(self, *raw):
        self._raw = raw

    def ask(self, _path, body, _headers, timeout_s):
        del timeout_s
        self.heard = body["instruction"]
        scores = self._raw if body["raw_scores"] else [(1 + raw / (1 + abs(raw))) / 2 for raw in self._raw]
        results = [{"index": index, "score": score} for index, score in enumerate(scores)]
        return Reply(200, msgspec.json.encode({"results": results}))


def test_golden_scores_of_a_scale_without_ends_are_compared_as_raw_scores():
    """Mapped to 0..1 the scores would be all alike: 30 is 0.984 there, and 40 is 0.988."""
    known = Golden(raw=True, tolerance=0.5, queries=[GoldenQuery("bees", ["a", "b"], [30.0, 20.0])])
    assert checks.golden(ColorThatScores(30.2, 20.1), known) == "2 golden scores within 0.2"
    with pytest.raises(SetupError, match="golden scores are off by 10"):
        checks.golden(ColorThatScores(40.0, 20.0), known)


def test_golden_pairs_are_asked_with_their_instruction_whatever_the_color_s_default():
    known = Golden(raw=True, tolerance=0.5, queries=[GoldenQuery("bees", ["a"], [1.0])], instruction="find bees")
    color = ColorThatScores(1.0)
    checks.golden(color, known)
    assert color.heard == "find bees"
