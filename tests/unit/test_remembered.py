"""What is remembered of a key's values goes with the values, and with the version that made it."""

import weakref

from feature_repo.freshness import Memo, OnlineVector
from services.compiled import compile_estimator
from services.inputs import Inputs
from services.remembered import Remembered
from tests.packages import draw_rows, fit_estimator
from tests.toy import TOY

CONTRACT = {
    "features": [
        {"name": "hour", "kind": "number", "source": "request", "min": 0.0, "max": 23.0},
        {"name": "calm", "kind": "number", "source": "views", "min": 0.0, "max": 1.0},
    ]
}


class Note:
    """Something made of values, which can be watched."""


def test_what_was_made_goes_with_the_values() -> None:
    """A store that is written again holds others; who reads on forgets what it made of the old."""
    remembered, kept, gone = Remembered[Note](), Memo(), Memo()
    for memo in (kept, gone):
        assert remembered.get(memo) is None
        assert remembered.keep(memo, Note()) is remembered.get(memo)
    note = weakref.ref(remembered.get(gone))
    del gone, memo
    assert note() is None
    assert len(remembered) == 1
    assert remembered.get(kept) is not None


def test_what_was_made_goes_with_the_reader() -> None:
    """Though the values stay: nobody else may hold what a version that serves no more made."""
    remembered, memo = Remembered[Note](), Memo()
    note = weakref.ref(remembered.keep(memo, Note()))
    del remembered
    assert note() is None


def test_a_store_that_nobody_writes_keeps_nothing_of_versions_that_are_gone() -> None:
    """Neither the contract's part nor the trees' is reached by what the store holds."""
    inputs = draw_rows(TOY, 500)
    estimator = fit_estimator(TOY, inputs)
    vector = OnlineVector({"calm": 0.5}, (), {}, memo=Memo())
    row, readers = dict(inputs.iloc[0]), []
    for _ in range(3):
        contract, trees = Inputs(CONTRACT), compile_estimator(estimator, TOY.feature_names, ["shop"])
        assert trees is not None
        contract.take([{"hour": 3.0}], [vector])
        trees.score([row], [vector.memo])
        assert (len(contract._remembered), len(trees._remembered)) == (1, 1)
        readers += [weakref.ref(contract._remembered), weakref.ref(trees._remembered)]
        del contract, trees
    assert [reader() for reader in readers] == [None] * 6


def test_vectors_are_equal_if_their_values_are() -> None:
    """Whoever remembers them or not."""
    one, other = (OnlineVector({"calm": 0.5}, (), {}, memo=Memo()) for _ in range(2))
    assert one == other
    assert one != other._replace(memo=None)
