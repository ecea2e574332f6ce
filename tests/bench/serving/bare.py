"""The yardstick: the model alone behind bare uvicorn, on numbers that are encoded already.

No framework, no DataFrame, no check of anything: what a service cannot well do less than with
scikit-learn. Started with one worker by `uvicorn tests.bench.serving.bare:app`.
"""

import os
from typing import Any

import joblib
import numpy as np
import orjson

TREES = joblib.load(os.environ["BENCH_TREES"])
HEADERS = [(b"content-type", b"application/json")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a list of rows, each a list of numbers."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    rows = np.array(orjson.loads(body), dtype=float)
    told = orjson.dumps(TREES.predict_proba(rows)[:, 1].tolist())
    length = (b"content-length", str(len(told)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": told})
