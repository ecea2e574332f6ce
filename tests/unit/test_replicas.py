"""Replicas are started by one at a time."""

import pytest

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.local.replicas import _alone


def test_two_who_start_replicas_at_once_are_told_apart(tmp_path):
    """The second is refused before it wrote anything, by the command that would help."""
    settings = Settings(home=tmp_path)
    with _alone(settings), pytest.raises(StackError, match="perennial replicas down"), _alone(settings):
        pass
    with _alone(settings):
        pass
