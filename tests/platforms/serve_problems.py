"""What Ray Serve would refuse or ignore of a configuration: JSON on stdin -> a line for each problem.

Runs by the Python that has Ray. Serve ignores a field that it does not know, so what its schema keeps is compared with
what it was given.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema


def problems(given: dict[str, Any]) -> Iterator[str]:
    """Yield the fields that are unknown, or what the schema says."""
    try:
        yield from ignored(given, ServeDeploySchema.model_validate(given).model_dump(exclude_unset=True))
        for application in given["applications"]:
            for name in set(application.get("runtime_env", ())) - RuntimeEnv.known_fields:
                yield f"runtime_env.{name}"
            for deployment in application["deployments"]:
                scaling = deployment["autoscaling_config"]
                kept = AutoscalingConfig.model_validate(scaling).model_dump(exclude_unset=True)
                yield from ignored(scaling, kept, "autoscaling_config.")
    except ValidationError as error:
        for problem in error.errors():
            yield f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def ignored(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """Yield the fields of `given` that `kept` has not."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from ignored(value, kept[name], f"{place}{name}.")
            else:
                yield f"{place}{name}"
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from ignored(one, other, f"{place}{number}.")


for _problem in problems(json.load(sys.stdin)):
    print(_problem)  # noqa: T201 - what it is for
