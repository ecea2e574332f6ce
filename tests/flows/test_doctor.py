"""Doctor over a running stack: what is bad, what is only slow, and what it cannot ask."""

from feature_repo.settings import load_settings
from flows.doctor import examine
from flows.local.stack import running_stack
from tests.flows.test_stack import stand_in
from tests.ports import find_free_port


def test_a_background_service_that_is_down_is_told_and_is_nothing_bad(tmp_path):
    """Nothing waits for it; a registry that is away is one bad answer in the place of all monitors."""
    settings = load_settings(home=tmp_path / "home", mlflow_port=1, service_port=find_free_port())
    services = [stand_in("first"), stand_in("slow", "--crash", background=True)]
    with running_stack(settings, services):
        told = {check.name: check for check in examine(settings)}
    assert told["first"].good
    assert told["slow"].good
    assert "nothing waits for it" in told["slow"].answer
    assert not told["monitors"].good
    assert "MLflow" in told["monitors"].next_step
    assert not [name for name in told if name.startswith("monitor ")]
