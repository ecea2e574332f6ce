"""Monitors first: nothing is promoted while a monitor that must be live is not, and doctor shows the same."""

import json
from dataclasses import replace

import polars as pl
import pytest

from feature_repo.errors import MonitorsDown, SettingsError
from feature_repo.lake import content_hash
from flows.doctor import check_monitors
from flows.local.prometheus import EXPECTED, find_folder, stop_monitoring
from flows.monitors import NAMES, list_monitors, read_required, read_rule_names
from flows.releasing.release import promote_version, roll_back
from tests.monitoring import FakeMonitoring, serving
from tests.packages import FakeRegistry
from tests.ports import find_free_port

RULES = """
groups:
  - name: service
    rules:
      - {record: "job:errors:rate5m", expr: "sum(rate(errors[5m]))"}
      - {alert: TooManyErrors, expr: "job:errors:rate5m > 1"}
"""


def write_package(folder):
    """A model package as far as a promotion reads it."""
    folder.mkdir()
    reference = pl.DataFrame({"amount": [1.0, 2.0, 3.0]})
    reference.write_parquet(folder / "reference.parquet")
    told = {"features": [{"name": "amount"}], "reference": {"sha256": content_hash(reference)}}
    (folder / "contract.json").write_text(json.dumps(told))
    return folder


class World:
    """A toy project with two versions that the gate passed, beside servers with which all is well."""

    def __init__(self, project, folder, fake, port, **settings):
        ports = dict.fromkeys(("prefect_port", "prometheus_port", "alertmanager_port"), port)
        options = {"monitoring": "on", **ports, **settings}
        self.project = replace(project, settings=project.settings.model_copy(update=options))
        self.fake, self.registry = fake, FakeRegistry()
        vars(self.project)["registry"] = self.registry
        self.packages = [write_package(folder / f"package{n}") for n in (1, 2)]
        for package in self.packages:
            self.registry.register(package, "run", {"perennial.gate": "passed"})

    def show(self):
        """Return what each monitor is found to be, by name."""
        return {monitor.name: monitor for monitor in list_monitors(self.project, 1)}


@pytest.fixture
def make_world(make_toy, tmp_path, monkeypatch):
    """Return a maker of worlds; settings are given by name."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "alerts.yml").write_text(RULES)
    monkeypatch.setattr("flows.monitors.RULES", tmp_path / "rules")
    project = make_toy()
    fake = FakeMonitoring(project.settings.service_port, project.settings.reports_port)
    fake.rules = [{"name": name, "health": "ok"} for name in ("job:errors:rate5m", "TooManyErrors")]
    with serving(fake) as port:
        yield lambda **settings: World(project, tmp_path, fake, port, **settings)


def test_with_every_monitor_live_a_model_is_promoted(make_world):
    """The alias moves, and what served before becomes the way back."""
    world = make_world(notify_block="custom-webhook/people")
    assert {name: monitor.live for name, monitor in world.show().items()} == dict.fromkeys(NAMES, True)
    assert promote_version(world.project, 1, "first").after == 1
    promote_version(world.project, 2, "second")
    assert world.registry.named == {"champion": 2, "previous": 1}


def stop_target(world):
    """A target that Prometheus cannot reach."""
    world.fake.targets[0] |= {"health": "down", "lastError": "connection refused"}


def forget_target(world):
    """A Prometheus that does not scrape the service."""
    del world.fake.targets[0]


def unload_rule(world):
    """A rule file that Prometheus did not load."""
    del world.fake.rules[1]


def break_rule(world):
    """A rule that Prometheus cannot evaluate."""
    world.fake.rules[1]["health"] = "err"


def cut_alertmanager(world):
    """A Prometheus that sends its alerts nowhere."""
    world.fake.alertmanagers = []


def send_nowhere(world):
    """An Alertmanager whose default receiver sends nothing."""
    world.fake.config = "route: {receiver: nobody}\nreceivers: [{name: nobody}]"


def pause_loop(world):
    """A deployment that somebody paused."""
    world.fake.deployments[0]["paused"] = True


def switch_schedule_off(world):
    """A schedule that somebody switched off."""
    world.fake.deployments[0]["schedules"][0]["active"] = False


def drop_schedule(world):
    """A deployment without its schedule."""
    world.fake.deployments[0]["schedules"] = []


def drop_deployment(world):
    """A Prefect that knows no such deployment."""
    del world.fake.deployments[0]


def empty_reference(world):
    """A package whose profile has no rows."""
    replace_reference(world, pl.DataFrame(schema={"amount": pl.Float64}))


def drop_reference(world):
    """A package without a profile."""
    replace_reference(world, None)


def swap_reference(world):
    """A package whose profile is another one than it was registered with."""
    replace_reference(world, pl.DataFrame({"amount": [1.0]}))


def replace_reference(world, frame):
    """Put another profile, or none, into both packages."""
    for package in world.packages:
        (package / "reference.parquet").unlink()
        if frame is not None:
            frame.write_parquet(package / "reference.parquet")


def delete_block(world):
    """A notification block that nobody saved."""
    world.fake.blocks.clear()


@pytest.mark.parametrize(
    ("damage", "name", "found"),
    [
        (stop_target, "scrape", "connection refused"),
        (forget_target, "scrape", "no target service"),
        (unload_rule, "rules", "not loaded: TooManyErrors"),
        (break_rule, "rules", "cannot be evaluated: TooManyErrors"),
        (cut_alertmanager, "route", "knows no Alertmanager"),
        (send_nowhere, "route", "'nobody' sends nowhere"),
        (pause_loop, "schedule", "daily-loop is paused"),
        (switch_schedule_off, "schedule", "inactive"),
        (drop_schedule, "schedule", "no schedule"),
        (drop_deployment, "schedule", "no deployment daily-loop"),
        (empty_reference, "reference", "without rows"),
        (drop_reference, "reference", "cannot be read"),
        (swap_reference, "reference", "not the one"),
        (delete_block, "notify", "404"),
    ],
)
def test_a_monitor_that_is_not_live_stops_the_promotion_and_is_named(make_world, damage, name, found):
    """No alias moves; the error names the monitor, what was found and what to do, and doctor agrees."""
    world = make_world(notify_block="custom-webhook/people")
    damage(world)
    with pytest.raises(MonitorsDown) as caught:
        promote_version(world.project, 1, "by hand", by_hand=True)
    assert str(caught.value.got).startswith(f"{name}: ")
    assert found in str(caught.value.got)
    assert world.registry.named == {}
    bad = [check for check in check_monitors(world.project) if not check.good]
    assert [(check.name, check.next_step) for check in bad] == [(f"monitor {name}", caught.value.next_step)]
    assert found in bad[0].answer


def test_who_does_not_answer_is_not_live(make_world):
    """A server that is down, refuses or talks nonsense stops the promotion like one that says no."""
    world = make_world()
    world.fake.down = True
    assert {name for name, monitor in world.show().items() if not monitor.live} == {
        "schedule", "scrape", "rules", "route",
    }  # fmt: skip
    world.fake.down = False
    world.fake.targets, world.fake.config = [{"odd": 1}], "route: ["
    assert not world.show()["scrape"].live
    assert not world.show()["route"].live
    nobody = world.project.settings.model_copy(update={"prometheus_port": find_free_port()})
    world.project = replace(world.project, settings=nobody)
    vars(world.project)["registry"] = world.registry
    assert "does not answer" in world.show()["rules"].found
    with pytest.raises(MonitorsDown, match="rules"):
        promote_version(world.project, 1, "first")


def test_no_rule_files_are_not_rules_that_are_loaded(make_world, tmp_path):
    """Nothing to compare with is no agreement."""
    world = make_world()
    (tmp_path / "rules" / "alerts.yml").unlink()
    assert not world.show()["rules"].live


def test_the_way_back_is_never_blocked(make_world):
    """A bad champion is rolled back while every monitor is down."""
    world = make_world()
    promote_version(world.project, 1, "first")
    promote_version(world.project, 2, "second")
    world.fake.down = True
    assert roll_back(world.project, "it misbehaves").after == 1
    assert world.registry.named["champion"] == 1


def test_what_serves_already_needs_nothing(make_world):
    """To promote the champion once more changes nothing and asks nobody."""
    world = make_world()
    promote_version(world.project, 1, "first")
    world.fake.down = True
    assert promote_version(world.project, 1, "again").reason == "it is the champion already"


def test_prometheus_is_required_once_it_was_started(make_world):
    """With `auto` a laptop without it promotes; a monitoring that ended is missed until it is stopped."""
    settings = make_world(monitoring="auto").project.settings
    alone = {"reference", "schedule", "notify"}
    assert read_required(settings) == alone
    folder = find_folder(settings)
    folder.mkdir(parents=True)
    (folder / EXPECTED).touch()
    state = {"id": "gone", "pid": 2**22, "created": 0.0, "services": {}}
    for phase in ("running", "stopped", "failed"):  # stopped: so it is written when its terminal dies
        (folder / "stack.json").write_text(json.dumps({**state, "phase": phase}))
        assert read_required(settings) == set(NAMES)
    assert read_required(settings.model_copy(update={"monitoring": "off"})) == alone
    stop_monitoring(settings)
    assert read_required(settings) == alone


def test_what_is_required_is_a_setting(make_world):
    """A monitor that the policy leaves out may be down; doctor says that it is not required."""
    world = make_world(required_monitors="reference, schedule")
    stop_target(world)
    assert promote_version(world.project, 1, "first").after == 1
    told = {check.name: check for check in check_monitors(world.project)}
    assert told["monitor scrape"].good
    assert "not required" in told["monitor scrape"].answer
    with pytest.raises(SettingsError, match="reference, schedule"):
        read_required(world.project.settings.model_copy(update={"required_monitors": "moon"}))


def test_switched_off_schedules_are_for_whoever_replays_days(make_world):
    """A replay runs the monitor itself: the deployment must be there, its schedule may rest."""
    world = make_world(schedules=False)
    switch_schedule_off(world)
    assert world.show()["schedule"].live
    pause_loop(world)
    assert not world.show()["schedule"].live


def test_doctor_says_what_it_can_while_the_registry_is_down(make_world):
    """No version is known then, and that is one answer."""
    world = make_world()
    world.registry.down = True
    assert [(check.name, check.good) for check in check_monitors(world.project)] == [("monitors", False)]


def test_rule_names_are_those_of_alerts_and_recordings(tmp_path):
    """Files of another kind are passed over."""
    (tmp_path / "rules.yml").write_text(RULES)
    (tmp_path / "other.yaml").write_text("a: 1\n---\n- b\n")
    assert read_rule_names(tmp_path) == {"job:errors:rate5m", "TooManyErrors"}
