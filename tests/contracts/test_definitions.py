"""The bundled problem's features are what the lock says, and a live model's are what it was trained on."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from feature_repo.errors import DefinitionChanged
from feature_repo.fingerprint import describe_inputs, describe_problem, fingerprint_all
from feature_repo.lock import read_lock, require_locked, write_lock
from feature_repo.problem import PROBLEM
from feature_repo.request_inputs import SideBySide
from flows.features import build_features
from flows.ingest import ingest_period
from flows.live_definitions import (
    FINGERPRINTS,
    LiveModel,
    read_live_models,
    remember_live_models,
    require_servable,
)
from flows.local.stack_services import PROJECT
from flows.project import Project
from services.definitions import build_require
from services.live import LiveModels
from services.metrics import Metrics
from tests import toy
from tests.packages import FakeRegistry, write_package

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
Make = Callable[..., Project]


def compute_otherwise(raw, ticks) -> pl.DataFrame:
    """Another share than the one that models were trained on."""
    return toy.shop_returns(raw, ticks).with_columns(pl.col("shop_returned_1d") * 2)


EDITED = dataclasses.replace(toy.SHOP_DAY, compute=compute_otherwise)
BESIDE = dataclasses.replace(EDITED, version=2)


def with_tables(project: Project, *tables, **changed) -> Project:
    return dataclasses.replace(
        project, problem=dataclasses.replace(project.problem, feature_tables=tables, **changed)
    )


def remember(project: Project) -> Project:
    """Make version 3, trained on the toy problem as it stands, the champion that was last known."""
    model = LiveModel(3, ("champion",), describe_problem(toy.TOY))
    remember_live_models(project, [model])
    return project


def test_the_features_are_what_the_lock_says() -> None:
    """A locked definition that was edited needs a new version: see `perennial features --lock`."""
    require_locked(PROBLEM, read_lock())


def test_feast_knows_what_the_problem_states(tmp_path: Path) -> None:
    """Owner, description, freshness limit, meanings and fingerprint of a table stand in Feast's registry."""
    from feature_repo.store import FeatureStore

    store = FeatureStore(tmp_path, PROBLEM)
    store.apply()
    told = fingerprint_all(describe_problem(PROBLEM))
    for table in PROBLEM.feature_tables:
        view = store._store.get_feature_view(table.name)
        assert (view.owner, view.ttl, view.description) == (table.owner, table.ttl, table.description)
        assert view.tags["fingerprint"] == told[table.name]
        assert {f.name: f.description for f in view.features} == table.meanings
    service = store._store.get_feature_service(PROBLEM.feature_service)
    assert dict(service.tags) == fingerprint_all(describe_inputs(PROBLEM))
    request = store._store.get_on_demand_feature_view("request")
    assert set(request.tags) == {"local_hour", "weekday"}


def test_the_feast_command_works_in_the_folder(tmp_path: Path) -> None:
    """`feast apply` finds each object once, and registers all of them."""
    shutil.copytree(Path(PROJECT) / "feature_repo", tmp_path / "feature_repo")
    (tmp_path / "var" / "feast").mkdir(parents=True)
    for words in (["apply"], ["feature-services", "list"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("feast"), *words],
            check=False,
            cwd=tmp_path / "feature_repo",
            env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "does not exist" not in done.stderr
    assert PROBLEM.feature_service in done.stdout


def test_an_edit_under_a_locked_version_is_refused(tmp_path: Path) -> None:
    """Neither the check nor the command that writes the lock lets an edit through."""
    lock = tmp_path / "definitions.lock"
    assert write_lock(toy.TOY, lock)
    edited = dataclasses.replace(toy.TOY, feature_tables=(EDITED,))
    for name in ("toy_v1", "toy_v2"):  # another service over the same table changes it all the same
        problem = dataclasses.replace(edited, feature_service=name)
        with pytest.raises(DefinitionChanged, match="shop_day with another compute"):
            require_locked(problem, read_lock(lock))
        with pytest.raises(DefinitionChanged):
            write_lock(problem, lock)


def test_a_new_version_is_locked_beside_the_old(tmp_path: Path) -> None:
    """Both versions stand in the lock, and both are held from then on."""
    lock = tmp_path / "definitions.lock"
    write_lock(toy.TOY, lock)
    features = (
        *toy.TOY.features[:3],
        dataclasses.replace(toy.TOY.features[3], name="shop_returned_1d_v2", source="shop_day_v2"),
    )
    problem = dataclasses.replace(
        toy.TOY, feature_tables=(toy.SHOP_DAY, BESIDE), features=features, feature_service="toy_v2"
    )
    with pytest.raises(DefinitionChanged, match="toy_v2: not locked"):
        require_locked(problem, read_lock(lock))
    assert write_lock(problem, lock)
    require_locked(problem, read_lock(lock))
    assert not write_lock(problem, lock)
    assert list(json.loads(lock.read_text())) == ["toy_v1", "toy_v2"]


def test_a_live_models_feature_that_was_edited_is_refused(make_toy: Make, toy_day) -> None:
    """Nothing is registered or computed; the message says which model, which table, what, and what to do."""
    project = with_tables(remember(make_toy()), EDITED)
    ingest_period(project, toy_day(0))
    with pytest.raises(DefinitionChanged) as refused:
        build_features(project, toy_day(0))
    with pytest.raises(DefinitionChanged):
        _ = with_tables(project, EDITED).store
    assert not project.lake.has("shop_day")
    assert not (project.settings.home / "feast" / "registry.db").exists()
    told = str(refused.value)
    for said in ("version 3 (champion)", "shop_day (shop_returned_1d)", "compute", "version=2", "toy_v2"):
        assert said in told


def test_a_new_service_over_the_edited_table_is_refused_too(make_toy: Make) -> None:
    """The live model reads the table by its name: another service would not keep its values."""
    with pytest.raises(DefinitionChanged):
        _ = with_tables(remember(make_toy()), EDITED, feature_service="toy_v2").definitions


def test_a_table_that_a_live_model_takes_may_not_go(make_toy: Make) -> None:
    """The old version stays until no model uses it."""
    with pytest.raises(DefinitionChanged, match="it is gone"):
        _ = with_tables(remember(make_toy()), BESIDE).definitions


def test_a_new_version_beside_the_old_is_computed_and_stored_under_its_own_name(
    make_toy: Make, toy_day
) -> None:
    """Both tables hold their own values, and Feast knows both by name."""
    project = with_tables(remember(make_toy()), toy.SHOP_DAY, BESIDE)
    ingest_period(project, toy_day(0))
    for n in (3, 4):
        ingest_period(project, toy_day(n))
        build_features(project, toy_day(n))
    old, new = project.lake.read("shop_day"), project.lake.read("shop_day_v2")
    both = old.join(new, on=["shop", "event_timestamp"])
    assert len(both) == len(old) == len(new) > 0
    assert (both["shop_returned_1d_v2"] == both["shop_returned_1d"] * 2).all()
    assert BESIDE.plain_name == "shop_day"
    assert dataclasses.replace(BESIDE, version=3).name == "shop_day_v3"
    row = {"shop": "north", "decided_at": toy_day(4).until}
    project.store.refresh()
    assert set(project.store.read_online([row])[0].values) == {"shop_returned_1d", "shop_returned_1d_v2"}


def test_two_tables_may_not_state_the_same_feature() -> None:
    """A model's inputs are told apart by name."""
    twin = dataclasses.replace(toy.SHOP_DAY, name="twin")
    with pytest.raises(ValueError, match=re.escape("shop_returned_1d")):
        dataclasses.replace(toy.TOY, feature_tables=(toy.SHOP_DAY, twin))


@pytest.fixture
def registered(make_toy: Make, tmp_path: Path) -> Project:
    """Return a project whose registry holds one version, trained on the toy problem as it stands."""
    project, registry = make_toy(), FakeRegistry()
    package = write_package(tmp_path / "one", toy.TOY)
    contract = json.loads((package / "contract.json").read_text())
    contract["definitions"] = describe_problem(toy.TOY)
    (package / "contract.json").write_text(json.dumps(contract))
    registry.register(package, "run", {FINGERPRINTS: json.dumps({"shop_day": "was another"})})
    project.__dict__["registry"] = registry
    return project


def test_the_live_models_are_those_that_an_alias_names(registered: Project) -> None:
    """Champion, previous and challenger are live; other aliases and versions are not."""
    assert read_live_models(registered) == []
    registered.registry.named = {"champion": 1, "previous": 1, "someday": 1}
    (model,) = read_live_models(registered)
    assert (model.version, model.aliases) == (1, ("champion", "previous"))
    assert model.definitions == describe_problem(toy.TOY)


def count_from_one(requests: pl.DataFrame) -> pl.DataFrame:
    """Call the function that models were trained on, and change what it made."""
    return toy.add_request_features(requests).with_columns(hour=pl.col("hour") + 1)


def add_half_day(requests: pl.DataFrame) -> pl.DataFrame:
    """Add an input beside the others."""
    return requests.with_columns(half_day=pl.col("hour") // 12)


WRAPPED = dataclasses.replace(toy.TOY, add_request_features=count_from_one)
WIDER = dataclasses.replace(
    toy.TOY, add_request_features=SideBySide((toy.add_request_features, add_half_day))
)


def test_a_request_function_around_the_old_one_is_refused(make_toy: Make, tmp_path: Path) -> None:
    """Neither a live model nor the lock lets its values change; one beside the old is let through."""
    lock = tmp_path / "definitions.lock"
    write_lock(toy.TOY, lock)
    project = remember(make_toy())
    with pytest.raises(DefinitionChanged, match="request with another compute"):
        require_locked(WRAPPED, read_lock(lock))
    with pytest.raises(DefinitionChanged, match="SideBySide"):
        _ = dataclasses.replace(project, problem=WRAPPED).definitions
    require_locked(WIDER, read_lock(lock))
    assert dataclasses.replace(project, problem=WIDER).definitions


def test_feast_makes_the_inputs_of_functions_side_by_side(tmp_path: Path) -> None:
    """The request-time view calls all functions, by their own modules."""
    from feature_repo.definitions import build_objects

    half = dataclasses.replace(toy.TOY.features[2], name="half_day")
    objects = build_objects(dataclasses.replace(WIDER, features=(*toy.TOY.features, half)))
    asked = pl.DataFrame({"ordered_at": [toy.START.replace(hour=18)], "amount": [5.0]}).to_pandas()
    made = objects["request"].feature_transformation.udf(asked)
    assert made.to_dict("records") == [{"hour": 18.0, "half_day": 1.0}]


def test_the_service_refuses_a_version_whose_request_inputs_were_edited(
    registered: Project, tmp_path: Path
) -> None:
    """It says so in its status; with the function back, or another beside it, the version serves."""
    registered.registry.named = {"champion": 1}
    for problem, champion in ((WRAPPED, None), (toy.TOY, "1"), (WIDER, "1")):
        require = build_require(problem)
        models = LiveModels(registered.registry, tmp_path / "models", 60, Metrics(), require)
        models.poll()
        status = models.read_status()
        assert status["champion"] == champion
        assert ("another compute" in status["refused"].get("1", "")) == (champion is None)


def test_the_service_takes_a_version_from_before_definitions_were_kept(
    registered: Project, tmp_path: Path
) -> None:
    """There is nothing to compare."""
    version = registered.registry.register(write_package(tmp_path / "old", toy.TOY), "run", {})
    registered.registry.named = {"champion": version}
    models = LiveModels(registered.registry, tmp_path / "models", 60, Metrics(), build_require(WRAPPED))
    models.poll()
    assert models.read_status()["champion"] == str(version)


def test_a_version_whose_features_are_defined_otherwise_by_now_may_not_be_promoted(
    registered: Project,
) -> None:
    """It would be given values that it was not trained on."""
    require_servable(registered, 1)
    edited = with_tables(registered, EDITED)
    edited.__dict__["registry"] = registered.registry
    with pytest.raises(DefinitionChanged, match="version 1"):
        require_servable(edited, 1)
