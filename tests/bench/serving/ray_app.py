"""Ray Serve: one replica with the model alone, on numbers that are encoded already."""

import os
import signal
import sys

import joblib
import numpy as np
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 1})
class Trees:
    """Answers a list of rows, each a list of numbers."""

    def __init__(self, path: str) -> None:
        self.trees = joblib.load(path)

    async def __call__(self, request: Request) -> list[float]:
        """Return each row's probability."""
        rows = np.array(await request.json(), dtype=float)
        return self.trees.predict_proba(rows)[:, 1].tolist()


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[2], log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Trees.bind(os.environ["BENCH_TREES"]), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
