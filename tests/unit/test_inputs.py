"""What a contract makes of a request: the same, whether the key's part is found anew or remembered."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from feature_repo.freshness import Memo, OnlineVector
from services.inputs import Inputs

CONTRACT = {
    "features": [
        {"name": "hour", "kind": "number", "source": "request", "min": 0.0, "max": 23.0},
        {"name": "place", "kind": "category", "source": "request", "categories": ["a", "b"]},
        {"name": "calm", "kind": "number", "source": "views", "min": 0.0, "max": 1.0, "null_share": 0},
        {"name": "busy", "kind": "number", "source": "views", "min": -5.0, "max": 5.0},
        {"name": "mood", "kind": "category", "source": "views", "categories": ["low", "high"]},
    ]
}
NUMBERS = st.sampled_from([None, -1e9, -1.0, 0.0, 0.5, 7, 23.0, 1e9, math.nan, "12"])
TEXTS = st.sampled_from([None, "a", "b", "low", "high", "new", 3.0])
ROWS = st.fixed_dictionaries({"hour": NUMBERS, "place": TEXTS, "other": TEXTS})
VALUES = st.fixed_dictionaries({"calm": NUMBERS, "busy": NUMBERS}, optional={"mood": TEXTS, "later": NUMBERS})


@given(st.lists(ROWS, min_size=1, max_size=4), VALUES, st.sets(st.sampled_from(["calm", "busy", "mood"])))
def test_a_remembered_key_is_judged_as_a_new_one_is(rows: list, values: dict, missing: set) -> None:
    """Features, flags, their text and whether the row is starved, over whatever a store may hold."""
    inputs = Inputs(CONTRACT)
    held = {**values, **dict.fromkeys(missing)}
    anew, kept = (OnlineVector(held, tuple(sorted(missing)), {}, memo=memo) for memo in (None, Memo()))
    before = dict(held)
    for row in rows:
        for calendar in ((), ("hour",)):
            told = []
            for vector in (anew, kept):
                features = inputs.gather(row, vector)
                flags = inputs.find_flags(features, vector, calendar)
                told.append(repr((features, flags, inputs.is_starved(vector), inputs.tell(features, vector))))
                assert repr(json.loads(inputs.tell(features, vector))) == repr(
                    {name: None if value != value else value for name, value in features.items()}
                )
            assert told[0] == told[1]
    assert repr(held) == repr(before)


def test_two_contracts_share_a_key_and_not_what_they_make_of_it() -> None:
    """What one has seen in training is no matter of the other."""
    wider = {"features": [{**f, "max": 100.0} if f["name"] == "busy" else f for f in CONTRACT["features"]]}
    vector = OnlineVector({"calm": 0.5, "busy": 50.0, "mood": "low"}, (), {}, memo=Memo())
    row = {"hour": 3.0, "place": "a"}
    for _ in range(2):
        found = [i.find_flags(i.gather(row, vector), vector) for i in (Inputs(CONTRACT), Inputs(wider))]
        assert [[flag.feature for flag in flags] for flags in found] == [["busy"], []]
