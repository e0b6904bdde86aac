"""Work on a Ray cluster, one task per item: a fleet's bags are replayed where there are cores (an optional package)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_cluster(
    work: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, result) as they come; a task takes one core. Ends when all are done, and leaves the cluster.

    Every machine of the cluster needs this package and the files that `work` reads, under the same path.

    Args:
        address: of the cluster: auto (this machine belongs to it), HOST:PORT, or ray://HOST:PORT from outside.

    Raises:
        ValueError: ray is not installed, or there is no cluster; what `work` raises, as it is.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--ray needs the package ray: pip install 'ray>=2.50', on every machine of the cluster"
        ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster answers at '{address}' ({error}): start one with 'ray start --head' and name its address"
        ) from error
    try:
        remote: Any = ray.remote(num_cpus=1)(lambda item: work(item))  # noqa: PLW0108 (ray takes functions only)
        waiting = {remote.remote(item): item for item in items}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _result(ray, done)
    finally:
        ray.shutdown()


def _result(ray: Any, task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ValueError(f"a task on the Ray cluster was lost: {' '.join(str(error).split())}") from error
