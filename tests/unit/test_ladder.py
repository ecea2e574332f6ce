"""The ladder: who answers, why, and what is said of inputs that the model does not know."""

from dataclasses import dataclass

from feature_repo.store import OnlineVector
from services.inputs import Flag, Inputs
from services.ladder import Rule, Rungs, climb

FEATURES = [
    {"name": "place", "kind": "category", "source": "request", "categories": ["a", "b"]},
    {"name": "hour", "kind": "number", "source": "request", "min": 5.0, "max": 10.0},
    {"name": "size", "kind": "number", "source": "request", "min": 0.0, "max": 100.0},
    {"name": "calm", "kind": "number", "source": "view", "min": 0.0, "max": 1.0},
    {"name": "busy", "kind": "number", "source": "view", "min": 0.0, "max": 1.0},
]
RULE = Rule("2", "hour", {"7": 0.125}, 0.25)
ROW = {"place": "a", "hour": 7.5, "size": 50.0}
FULL = OnlineVector({"calm": 0.5, "busy": 0.5}, (), {})
BLANK = Inputs({"features": FEATURES})


@dataclass
class Model:
    """A model that gives one score, or fails."""

    version: str
    scores: float | Exception = 0.75
    asked: int = 0

    @property
    def inputs(self):
        return BLANK

    def predict(self, rows, vectors):
        self.asked += 1
        if isinstance(self.scores, Exception):
            raise self.scores
        return [self.scores] * len(rows)


def ask(champion=None, previous=None, rule=RULE, row=ROW, vector=FULL, reason="no_champion"):
    [answer] = climb(Rungs(champion, previous, rule, 0.2, BLANK, reason), [row], [vector], {"hour"})
    return answer


def told(answer):
    return answer.served_by, answer.reason, answer.score, answer.model_version


def test_the_champion_answers():
    """With everything in place the champion's score leaves, with the exact inputs."""
    answer = ask(Model("2"))
    assert told(answer) == ("champion", "ok", 0.75, "2")
    assert answer.flags == ()
    assert answer.features == {**ROW, "calm": 0.5, "busy": 0.5}


def test_a_champion_that_fails_is_stood_in_for():
    """The previous version answers, and says why."""
    answer = ask(Model("2", ValueError("broken")), Model("1", 0.5))
    assert told(answer) == ("previous", "champion_failed", 0.5, "1")


def test_scores_that_are_no_probabilities_are_a_failure():
    """NaN and numbers outside 0 to 1 never leave."""
    for score in (float("nan"), 1.5, -0.1):
        assert ask(Model("2", score), Model("1", 0.5)).served_by == "previous"


def test_the_rule_answers_when_no_model_can():
    """The rule takes the row's group, or else the base rate."""
    broken = Model("2", ValueError("broken"))
    assert told(ask(broken)) == ("rule", "champion_failed", 0.125, "2")
    assert ask(broken, row={**ROW, "hour": 9.0}).score == 0.25
    assert ask(broken, row={**ROW, "hour": None}).score == 0.25


def test_the_prior_answers_when_there_is_nothing():
    """Before any model was promoted the problem's prior answers, and the inputs are kept all the same."""
    answer = ask(rule=None)
    assert told(answer) == ("prior", "no_champion", 0.2, None)
    assert answer.features["place"] == "a"


def test_a_refused_champion_is_named_as_the_reason():
    """The version that served before goes on, as the previous rung."""
    assert told(ask(None, Model("1"), reason="champion_refused"))[:2] == ("previous", "champion_refused")


def test_without_most_stored_features_no_model_is_asked():
    """More than half missing or expired: the rule answers. Half: the model does, with flags."""
    champion = Model("2")
    gone = OnlineVector({"calm": None, "busy": None}, ("calm",), {"busy": 9_000.0})
    answer = ask(champion, Model("1"), vector=gone)
    assert told(answer) == ("rule", "features_unavailable", 0.125, "2")
    assert champion.asked == 0
    assert answer.flags == (Flag("calm", "missing", None), Flag("busy", "expired", 9_000.0))
    half = ask(champion, vector=OnlineVector({"calm": None, "busy": 0.5}, ("calm",), {}))
    assert (half.served_by, half.flags) == ("champion", (Flag("calm", "missing", None),))


def test_a_feature_that_the_store_does_not_know_is_missing():
    """A model whose features were taken away is not asked as if they were null."""
    assert ask(Model("2"), vector=OnlineVector({}, (), {})).reason == "features_unavailable"


def test_a_null_that_was_observed_is_no_flag():
    """The store had a value, and it was null: that is what the model learned from."""
    assert ask(Model("2"), vector=OnlineVector({"calm": None, "busy": 0.5}, (), {})).flags == ()


def test_what_the_model_never_saw_is_flagged():
    """Unseen categories, numbers out of range by more than the margin, missing request fields."""
    answer = ask(Model("2"), row={"place": "z", "hour": 30.0, "size": 151.0})
    assert answer.flags == (Flag("place", "unseen", "z"), Flag("size", "out_of_range", 151.0))
    assert ask(Model("2"), row={**ROW, "size": 149.0}).flags == ()
    assert ask(Model("2"), row={**ROW, "size": None}).flags == (Flag("size", "missing", None),)


def test_a_range_that_was_never_negative_is_not_widened_to_nothing():
    """A distance in thousands of miles is none of the distances that training saw."""
    inputs = Inputs(
        {"features": [{"name": "miles", "kind": "number", "source": "request", "min": 17, "max": 4983}]}
    )
    vector = OnlineVector({}, (), {})
    flagged = {
        miles: bool(inputs.find_flags({"miles": miles}, vector))
        for miles in (1.0, 8.0, 9.0, 7_466.0, 7_467.0)
    }
    assert flagged == {1.0: True, 8.0: True, 9.0: False, 7_466.0: False, 7_467.0: True}


def test_a_count_that_was_one_at_least_may_be_none():
    """An hour without a flight is no unit of another kind; less than nothing is."""
    inputs = Inputs(
        {"features": [{"name": "due", "kind": "number", "source": "request", "min": 1, "max": 80}]}
    )
    flagged = {
        due: bool(inputs.find_flags({"due": due}, OnlineVector({}, (), {}))) for due in (-1.0, 0.0, 1.0)
    }
    assert flagged == {-1.0: True, 0.0: False, 1.0: False}


def test_a_batch_asks_each_model_once():
    """Rows that cannot be asked about do not hold up the others, and the order stays."""
    champion = Model("2")
    empty = OnlineVector({"calm": None, "busy": None}, ("calm", "busy"), {})
    answers = climb(Rungs(champion, None, RULE, 0.2, BLANK), [ROW] * 3, [FULL, empty, FULL])
    assert [a.served_by for a in answers] == ["champion", "rule", "champion"]
    assert champion.asked == 1
