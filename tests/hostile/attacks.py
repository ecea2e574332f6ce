"""Requests that mean no good, or do not know better: made by Hypothesis around valid examples."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "MKCOL")
PATHS = ("/predict", "/feedback", "/live", "/openapi.json", "/docs", "/", "/livez", "/readyz", "/metrics")
SHARES = {"fields": 6, "valid": 3, "lists": 2}  # of the kinds of body; others: 1


@dataclass(frozen=True)
class Attack:
    """One request as bytes. `spoken`: it is HTTP; `whole`: the client waits for an answer."""

    kind: str
    method: str
    path: str
    sent: bytes
    spoken: bool = True
    whole: bool = True


def make_attacks(examples: Mapping[str, Mapping[str, Any]]) -> st.SearchStrategy[Attack]:
    """Return a strategy of requests; `examples` are valid bodies by path."""
    bodies = _weigh({_make_bodies(path, examples[path]): 1 for path in sorted(examples)})
    by_body = st.builds(_wrap, bodies, _headers(), st.sampled_from((0, 0, 0, 0, 1, 7)))
    return _weigh({by_body: 16, _make_strangers(): 2, _make_gibberish(): 1, _make_leavers(bodies): 1})


def _weigh(shares: Mapping[st.SearchStrategy[Any], int]) -> st.SearchStrategy[Any]:
    """Return one of the strategies, each as often as its share says."""
    return st.sampled_from([made for made, share in shares.items() for _ in range(share)]).flatmap(
        lambda m: m
    )


def _make_bodies(path: str, example: Mapping[str, Any]) -> st.SearchStrategy[tuple[str, str, bytes]]:
    valid = json.dumps(example).encode()
    kinds: dict[str, st.SearchStrategy[bytes]] = {
        "bytes": st.binary(max_size=200),
        "text": st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
        "json": st.one_of(_values(), st.lists(_values(), max_size=4)).map(_dump),
        "valid": _vary(example).map(_dump),
        "fields": _bend(example).map(_dump),
        "lists": st.lists(st.one_of(_bend(example), _values()), max_size=5).map(_dump),
        "duplicates": st.tuples(st.sampled_from(sorted(example)), _values()).map(
            lambda pair: valid[:-1] + b", " + _dump({pair[0]: pair[1]})[1:]
        ),
        "truncated": st.integers(0, len(valid) - 1).map(lambda n: valid[:n]),
        "damaged": st.tuples(st.integers(0, len(valid) - 1), st.binary(min_size=1, max_size=3)).map(
            lambda at: valid[: at[0]] + at[1] + valid[at[0] + 1 :]
        ),
        "encodings": st.sampled_from(("utf-16", "utf-32", "utf-8-sig", "cp037")).map(
            lambda name: json.dumps(example).encode(name)
        ),
        "nesting": st.tuples(st.sampled_from(("[", '{"a":', "[{")), st.integers(1, 100_000)).map(
            lambda deep: (deep[0] * deep[1]).encode()[:1_000_000]
        ),
        "sizes": st.sampled_from((1_000, 1_001, 5_000)).map(lambda n: b"[" + b",".join([b"{}"] * n) + b"]"),
    }
    named = {kind: made.map(lambda body, k=kind: (k, path, body)) for kind, made in kinds.items()}
    return _weigh({made: SHARES.get(kind, 1) for kind, made in named.items()})


def _bend(example: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of the example with some of its fields changed, taken away or added."""
    changed = st.dictionaries(st.sampled_from(sorted(example)), st.one_of(_oddities(), _values()), max_size=2)
    removed = st.sets(st.sampled_from(sorted(example)), max_size=1)
    added = st.one_of(st.just({}), st.just({}), st.dictionaries(st.text(max_size=8), _values(), max_size=1))
    return st.builds(
        lambda new, gone, more: {k: v for k, v in {**example, **new, **more}.items() if k not in gone},
        changed,
        removed,
        added,
    )


def _vary(example: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy of other numbers and codes in the example, most of them valid."""
    numbers = {name: st.integers(1, 5_000) for name, value in example.items() if isinstance(value, int)}
    codes = {name: st.sampled_from(CODES) for name in {"carrier", "origin", "dest"} & set(example)}
    one = st.fixed_dictionaries({}, optional={**numbers, **codes}).map(lambda new: {**example, **new})
    return st.one_of(one, st.lists(one, min_size=1, max_size=5))


CODES = ("EWR", "JFK", "LGA", "ATL", "UA", "B6", "ZZZ", "N0")


def _oddities() -> st.SearchStrategy[Any]:
    """Values that were trouble somewhere before."""
    odd: tuple[Any, ...] = (
        *(10**400, -(10**400), 2**53 + 1, 2**63, -(2**63) - 1, 1e308, 5e-324, -0.0),
        *(float("nan"), float("inf"), float("-inf"), True, None, "", " ", "NaN", "null", "\x00", "\ud800"),
        *(
            "A" * 100_000,
            "é" * 65,
            "\u202eABC",
            "EWR\n",
            "ＵＡ",
            "' or 1=1 --",
            "../../etc/passwd",
            "{{7*7}}",
        ),
        *("2013-02-30T00:00:00Z", "2013-06-30T23:59:60Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59Z"),
        *("2013-01-01T10:15:00", "2013-01-01", "2013-01-01T10:15:00+23:59", "1970-01-01T00:00:00-23:59"),
        *("2013-03-10T02:30:00-05:00", "2013-01-01T24:00:00Z", 1356998400, "-2013-01-01T10:15:00Z"),
        *([], {}, [[]], {"a": {}}, ["EWR"], {"$ref": "#"}),
    )
    times = st.datetimes().map(lambda at: at.isoformat() + "Z")
    names = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=2, max_size=4)
    return st.one_of(st.sampled_from(odd), times, names, st.integers(), st.floats())


def _values() -> st.SearchStrategy[Any]:
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=5,
    )


def _headers() -> st.SearchStrategy[bytes]:
    """Further headers of a request."""
    odd = (
        b"",
        b"Content-Type: text/plain\r\n",
        b"Content-Type: application/json; charset=utf-16\r\n",
        b"Content-Type: \xff\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Expect: 100-continue\r\n",
        b"Accept: application/xml\r\nAccept-Encoding: br;q=0\r\n",
        b"X-Forwarded-For: " + b"1.2.3.4, " * 200 + b"\r\n",
        b"Cookie: " + b"a=b; " * 1_000 + b"\r\n",
        b"Host: elsewhere\r\nHost: twice\r\n",
        b"Upgrade: h2c\r\n",
        b"Range: bytes=0-1\r\n",
        b"traceparent: 00-zz\r\n",
    )
    return st.sampled_from((b"",) * 8 + odd)


def _wrap(body: tuple[str, str, bytes], headers: bytes, chunk: int) -> Attack:
    """Return a body as a request, whole or in chunks of so many parts."""
    kind, path, content = body
    if chunk:
        size = max(1, len(content) // chunk)
        parts = [content[i : i + size] for i in range(0, len(content), size)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        length = b"Transfer-Encoding: chunked\r\n"
    else:
        framed, length = content, b"Content-Length: %d\r\n" % len(content)
    return Attack(kind, "POST", path, _open("POST", path) + headers + length + b"\r\n" + framed)


def _make_strangers() -> st.SearchStrategy[Attack]:
    """Return a strategy of other methods, other paths, and odd queries."""
    plain = st.text("abcdefghij/.%~-_0123456789?&=;", max_size=40).map(lambda text: f"/{text}")
    method, path = st.sampled_from((*METHODS, "POST")), st.one_of(st.sampled_from(PATHS), plain)
    return st.builds(
        lambda method, path: Attack(
            "strangers", method, path, _open(method, path) + b"Content-Length: 2\r\n\r\n{}"
        ),
        method,
        path,
    )


def _make_gibberish() -> st.SearchStrategy[Attack]:
    """Return a strategy of what is not HTTP, or breaks its rules."""
    lines = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: rot13\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /predict HTTP/9.9\r\nHost: a\r\n\r\n",
        b"POST /pre dict HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST  HTTP/1.1\r\n\r\n",
        b"GET /live\r\n\r\n",
        b"post /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"X /predict HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    sent = st.one_of(st.sampled_from(lines), st.binary(min_size=1, max_size=80))
    return sent.map(lambda raw: Attack("gibberish", "", "", raw, spoken=False))


def _make_leavers(bodies: st.SearchStrategy[tuple[str, str, bytes]]) -> st.SearchStrategy[Attack]:
    """Return a strategy of clients that go away in the middle of what they send."""

    def leave(body: tuple[str, str, bytes], share: float) -> Attack:
        whole = _wrap(body, b"", 0)
        cut = whole.sent[: max(1, int(share * len(whole.sent)))]
        return Attack("leavers", "POST", body[1], cut, spoken=False, whole=False)

    return st.builds(leave, bodies, st.floats(0, 0.99))


def _open(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: hostile\r\n".encode()


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
