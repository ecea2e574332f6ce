"""The models that serve: follows the registry's aliases, verifies, and swaps in one assignment.

A version serves only after its files were checked against their hashes and it reproduced its own
scores. What was verified last is remembered on disk, so that a worker starts without the registry.
"""

import fcntl
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from feature_repo.errors import ModelRefused, RegistryUnavailable
from services.definitions import Require, accept_all
from services.ladder import Rule
from services.metrics import Metrics
from services.package import Package, is_intact, load_package, write_manifest
from services.routing import TERMS, Terms, parse_terms

KEEP_LOADED = 4  # versions kept in memory: moving an alias back is instant

LOCK_SECONDS = 10.0  # how long a worker waits for another that puts the same files in place

REMEMBERED = "live.json"  # beside the versions: what served last

log = logging.getLogger("perennial.models")


class Aliases(Protocol):
    """What is needed of the registry."""

    def aliases(self) -> dict[str, int]:
        """Return the version that each alias names."""

    def read_version_tag(self, version: int, key: str) -> str | None:
        """Return a tag of a version."""

    def download(self, version: int, to: Path) -> Path:
        """Fetch a version's folder."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves now; replaced whole, never changed. `reason` says why there is no champion, if so."""

    champion: Package | None = None
    previous: Package | None = None
    challenger: Package | None = None
    reason: str = "no_champion"
    since: str = ""
    terms: Terms = field(default_factory=Terms)  # the challenger's

    @property
    def canary(self) -> Package | None:
        """The challenger, if it answers a share of the traffic."""
        return self.challenger if self.terms.stage == "canary" else None

    @property
    def rule(self) -> Rule | None:
        """The rule that came with the best model there is."""
        best = self.champion or self.previous
        return best.rule if best else None

    @property
    def versions(self) -> tuple[str | None, str | None, str | None]:
        """The champion's, the previous and the challenger's version."""
        return (_version(self.champion), _version(self.previous), _version(self.challenger))


class LiveModels:
    """Keeps `serving` true to the aliases, from a thread of its own."""

    def __init__(
        self,
        registry: Aliases,
        folder: Path,
        poll_seconds: float,
        metrics: Metrics,
        require: Require = accept_all,
    ) -> None:
        self.serving = Serving(since=_now())
        self._registry = registry
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._metrics = metrics
        self._require = require
        self._loaded: dict[str, Package] = {}
        self._refused: dict[str, str] = {}
        self._unreachable: dict[str, str] = {}  # could not be fetched or loaded; asked for again and again
        self._logged: set[str | None] = set()  # of these, those that the log has told of
        self.settled = threading.Event()  # the registry was asked once, whatever it said
        self._last: str | None = None  # the version that answered last as champion
        self._before: str | None = None  # the one before it
        self._moved = ""  # when the champion changed last
        self._terms: tuple[str | None, Terms] = (None, Terms())  # the challenger that they are of, and they
        self._remembered: Mapping[str, str | None] = {}  # as it stands on disk
        self._forgetful = False  # it could not be written
        self._contact: str | None = None
        self._trouble: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load what served last from disk, then follow the registry until `stop`."""
        self._recall()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=5)

    def poll(self) -> None:
        """Ask for the aliases once and act on them; trouble is recorded, never raised."""
        try:
            aliases = self._registry.aliases()
            self._contact = _now()
            self._apply({alias: str(version) for alias, version in aliases.items()})
            self._note_trouble(None)
        except RegistryUnavailable as error:
            self._note_trouble(str(error))
        except Exception as error:
            log.exception("cannot follow the registry")
            self._note_trouble(f"{type(error).__name__}: {error}")
        finally:
            self.settled.set()
            self._remember()  # in case the disk was full when it changed

    def read_status(self) -> dict[str, Any]:
        """Return what this worker serves and since when, what it refused, and how the registry is."""
        serving = self.serving
        champion, previous, challenger = serving.versions
        return {
            "champion": champion,
            "previous": previous,
            "challenger": challenger,
            "terms": {"stage": serving.terms.stage, "share": serving.terms.share} if challenger else None,
            "since": serving.since,
            "champion_since": self._moved,
            "reason": "ok" if serving.champion else serving.reason,
            "refused": dict(self._refused),
            "unreachable": dict(self._unreachable),
            "registry": {"last_contact": self._contact, "trouble": self._trouble},
        }

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.poll()
            self._stop.wait(self._poll_seconds)

    def _apply(self, aliases: Mapping[str, str]) -> None:
        self._unreachable = {v: why for v, why in self._unreachable.items() if v in aliases.values()}
        wanted = aliases.get("champion")
        champion = self._reach(wanted)
        if champion and champion.version != self._last:
            self._before, self._last = self._last, champion.version
        # Until a good champion comes, the one that answered last goes on, as the previous rung.
        named = aliases.get("previous")
        candidates = (named, self._before) if champion else (self._last, named)
        # Scored beside the champion and not heard: a version that serves already has nothing to show.
        beside = aliases.get("challenger") if champion and aliases.get("challenger") != wanted else None
        reason = "no_champion"
        if wanted:
            reason = "champion_refused" if wanted in self._refused else "champion_unreachable"
        # What is here already answers at once; what has to be fetched for it follows.
        for get in (self._loaded.get, self._reach):
            found = (get(version) for version in candidates if version and version != wanted)
            previous = next((package for package in found if package), None)
            challenger = get(beside) if beside else None
            self._swap(Serving(champion, previous, challenger, reason, _now(), self._recall_terms(beside)))
        if beside:
            self._swap(replace(self.serving, terms=self._read_terms(beside), since=_now()))

    def _recall_terms(self, version: str | None) -> Terms:
        return self._terms[1] if self._terms[0] == version else Terms()

    def _read_terms(self, version: str) -> Terms:
        """Return the terms that the challenger's tag tells; what cannot be read leaves it in shadow."""
        text = self._registry.read_version_tag(int(version), TERMS)
        try:
            terms = parse_terms(text)
        except (ValueError, TypeError) as error:
            terms = Terms()
            if self._terms != (version, terms):
                log.error("terms of challenger %s, which stays in shadow: %s", version, error)
        self._terms = (version, terms)
        return terms

    def _swap(self, new: Serving) -> None:
        old = self.serving
        if (new.versions, new.reason, new.terms) == (old.versions, old.reason, old.terms):
            return
        self.serving = new
        if new.versions[0] != old.versions[0]:
            self._moved = new.since
        self._metrics.note_serving(old.versions, new.versions)
        log.warning(
            "serving champion %s, previous %s, challenger %s (before: %s, %s, %s)",
            *new.versions,
            *old.versions,
        )
        self._remember()

    def _reach(self, version: str | None) -> Package | None:
        """Return a version, or None if it cannot be had now: one alias must not hold up the others."""
        try:
            package = self._get(version)
        except Exception as error:
            expected = isinstance(error, RegistryUnavailable | OSError | MemoryError)
            told = f"{type(error).__name__}: {error}"
            if version not in self._logged:
                log.error("version %s cannot be had: %s", version, told, exc_info=not expected)
            self._logged.add(version)
            self._unreachable[str(version)] = told
            return None
        self._logged.discard(version)
        self._unreachable.pop(str(version), None)
        return package

    def _get(self, version: str | None) -> Package | None:
        if version is None or version in self._refused:
            return None
        if version not in self._loaded:
            try:
                self._loaded[version] = self._load(version)
            except ModelRefused as error:
                self._refused[version] = str(error)
                self._metrics.refused.inc()
                log.error("refused: %s", error)
                return None
        package = self._loaded[version]
        self._loaded = {**{v: p for v, p in self._loaded.items() if v != version}, version: package}
        self._loaded = dict(list(self._loaded.items())[-KEEP_LOADED:])
        return package

    def _load(self, version: str) -> Package:
        folder = self._folder / version
        if not is_intact(folder):
            self._fetch(version, folder)
        package = load_package(folder, version)
        self._require(version, package.contract)
        return package

    def _fetch(self, version: str, folder: Path) -> None:
        """Put a version's files in place, whole, unless another worker just did."""
        part = folder.with_name(f".{version}.{os.getpid()}")
        with self._hold(version):
            if is_intact(folder):
                return
            try:
                shutil.rmtree(part, ignore_errors=True)
                self._registry.download(int(version), part)
                write_manifest(part)
                shutil.rmtree(folder, ignore_errors=True)
                part.replace(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def _hold(self, version: str) -> Iterator[None]:
        """Keep other workers off a version's files. Raises OSError if one of them is at it for too long."""
        self._folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + LOCK_SECONDS
        with (self._folder / f".{version}.lock").open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until or self._stop.wait(0.05):
                        raise TimeoutError(f"another worker is fetching version {version}") from None
            yield

    def _recall(self) -> None:
        known = self._remembered = read_remembered(self._folder)
        self._last, self._before = known.get("champion"), known.get("before")
        champion, previous = (
            self._recall_version(self._last),
            self._recall_version(known.get("previous") or self._before),
        )
        if champion or previous:
            self._swap(Serving(champion, previous, None, "no_champion", _now()))

    def _recall_version(self, version: str | None) -> Package | None:
        try:
            return self._get(version)
        except Exception as error:  # noqa: BLE001 - its copy is gone and so is the registry
            log.warning("version %s, which served last, cannot be loaded: %s", version, error)
            return None

    def _remember(self) -> None:
        """Write down what serves, if that is not what stands there; a disk that is full is tried again."""
        champion, previous, _ = self.serving.versions
        known = {"champion": self._last, "before": self._before, "previous": previous}
        if not (champion or previous) or known == self._remembered:
            return
        part = self._folder / f".{REMEMBERED}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(known))
            part.replace(self._folder / REMEMBERED)
        except OSError as error:
            if not self._forgetful:
                log.error("what serves cannot be written down, so a restart would not know it: %s", error)
            self._forgetful = True
            return
        self._remembered, self._forgetful = known, False

    def _note_trouble(self, trouble: str | None) -> None:
        if trouble and not self._trouble:
            log.warning("serving on what is loaded: %s", trouble)
        self._trouble = trouble
        self._metrics.registry_up.set(0 if trouble else 1)


def read_remembered(folder: Path) -> dict[str, str | None]:
    """Return what served last out of a folder of models; nothing if that cannot be read."""
    try:
        known = json.loads((folder / REMEMBERED).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: told if isinstance(told, str) else None for key, told in known.items()}


def _version(package: Package | None) -> str | None:
    return package.version if package else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
