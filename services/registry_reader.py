"""Questions to MLflow's registry at a twentieth of what its client costs: what is asked four times a second.

And a version's files, for which a worker would have to import the client first: seconds in which it has the
old version only. One connection is kept open, by one thread. Only for a plain http address without
credentials; the client does the rest.
"""

import http.client
import io
import json
import os
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

LARGEST = 1_000_000  # bytes of an answer; a model's aliases and a version's tags take a few thousand
LARGEST_FILE, PIECE = 4 * 1024**3, 1 << 20  # bytes of a version's file, and of what is read of it at once
API, ARTIFACTS = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_AUTH")


class RegistryReader:
    """Reads one registered model.

    timeout  seconds that may pass until there is a connection, and then until the answer is whole
    """

    def __init__(self, url: str, name: str, timeout: float = 2.0) -> None:
        self._parts, self._name, self._timeout = urlsplit(url), name, timeout
        self._connection: http.client.HTTPConnection | None = None

    @staticmethod
    def can_read(url: str) -> bool:
        """Return whether the address needs nothing that only the client knows."""
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname and not parts.username
        return bool(plain) and not any(os.environ.get(name) for name in CREDENTIALS)

    def aliases(self) -> dict[str, int]:
        """Return the version that each alias names; none if there is no such model. Raises OSError."""
        found = self._get("registered-models/get", {"name": self._name}, "registered_model")
        told = found.get("aliases", []) if found is not None else []
        return {one["alias"]: int(one["version"]) for one in told}

    def version_tag(self, version: int, key: str) -> str | None:
        """Return a tag of a version; None if the tag or the version is not there. Raises OSError."""
        asked = {"name": self._name, "version": str(version)}
        found = self._get("model-versions/get", asked, "model_version")
        tags = found.get("tags", []) if found is not None else []
        return next((str(tag["value"]) for tag in tags if tag["key"] == key), None)

    def download(self, version: int, to: Path) -> bool:
        """Write a version's files into a folder; return False if MLflow does not hand them out itself.

        Raises OSError. Whether they are those that were registered is for the caller to look at.
        """
        asked = urlencode({"name": self._name, "version": str(version)})
        told = self._read(f"{API}/model-versions/get-download-uri?{asked}").get("artifact_uri")
        place = urlsplit(told if isinstance(told, str) else "")
        if place.scheme != "mlflow-artifacts" or place.netloc:
            return False
        self._copy(place.path.strip("/"), to)
        return True

    def _copy(self, folder: str, to: Path) -> None:
        to.mkdir(parents=True, exist_ok=True)
        for file in self._read(f"{ARTIFACTS}?{urlencode({'path': folder})}").get("files", []):
            name = str(file["path"])
            # Whoever answers for MLflow does not choose where we write.
            if name in {"", ".", ".."} or name != Path(name).name:
                raise OSError(f"a file named {name!r}")
            if file["is_dir"]:
                self._copy(f"{folder}/{name}", to / name)
            else:
                self._fetch(f"{folder}/{name}", to / name)

    def _fetch(self, artifact: str, to: Path) -> None:
        """Write one file as it comes: it may take long, but not stand still. Its hash tells if it is all."""
        connection = http.client.HTTPConnection(
            self._parts.hostname or "", self._parts.port or 80, timeout=self._timeout
        )
        with closing(connection), to.open("wb") as file:
            connection.request("GET", f"{self._parts.path.rstrip('/')}{ARTIFACTS}/{quote(artifact)}")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise OSError(f"HTTP {answer.status} for {artifact}")
            while piece := answer.read(PIECE):
                file.write(piece)
                if file.tell() > LARGEST_FILE:
                    raise OSError(f"more than {LARGEST_FILE:,} bytes for {artifact}")

    def _read(self, path: str) -> dict[str, Any]:
        status, body = self._ask(path)
        try:
            told = json.loads(body) if status == http.client.OK else None
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise OSError(f"HTTP {status}: {body[:200]!r}")
        return told

    def _get(self, what: str, asked: dict[str, str], key: str) -> dict[str, Any] | None:
        status, body = self._ask(f"{API}/{what}?{urlencode(asked)}")
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if status == http.client.OK and isinstance(told, dict) and isinstance(told.get(key), dict):
            found: dict[str, Any] = told[key]
            return found
        if isinstance(told, dict) and told.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise OSError(f"HTTP {status}: {body[:200]!r}")

    def _ask(self, path: str) -> tuple[int, bytes]:
        path = f"{self._parts.path.rstrip('/')}{path}"
        kept = self._connection is not None
        try:
            return self._try(path)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept and not isinstance(error, TimeoutError):  # it was closed while nobody asked
                return self._try_anew(path)
            raise error if isinstance(error, OSError) else OSError(repr(error)) from error

    def _try_anew(self, path: str) -> tuple[int, bytes]:
        try:
            return self._try(path)
        except http.client.HTTPException as error:
            self.close()
            raise OSError(repr(error)) from error
        except OSError:
            self.close()
            raise

    def _try(self, path: str) -> tuple[int, bytes]:
        if self._connection is None:
            host, port = self._parts.hostname or "", self._parts.port or 80
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
            self._connection.response_class = _TimedResponse
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._timeout)  # the last answer has used some of it
        self._connection.request("GET", path)
        with self._connection.getresponse() as answer:
            body = answer.read(LARGEST + 1)
            if len(body) > LARGEST:
                self.close()
                raise OSError(f"HTTP {answer.status}: more than {LARGEST:,} bytes")
            if answer.length:
                raise http.client.IncompleteRead(body, answer.length)
        return answer.status, body

    def close(self) -> None:
        """Let go of the connection; the next question opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _TimedResponse(http.client.HTTPResponse):
    """A response that is whole in time: a socket's own limit begins anew with every byte that comes."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class _TimedReader(io.RawIOBase):
    """Reads a socket until its limit, counted from now, has passed. Raises TimeoutError."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw
        self._limit = sock.gettimeout() or 0.0
        self._until = time.monotonic() + self._limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer within {self._limit:g} s")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
