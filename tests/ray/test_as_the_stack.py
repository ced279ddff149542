"""The stack's own end-to-end tests, where they are about answers, against two replicas under Ray Serve."""

import importlib.util
from pathlib import Path

END_TO_END = Path(__file__).resolve().parents[1] / "e2e"


def suite(name, *chosen):
    """The tests of a module; they find this folder's `stack`."""
    spec = importlib.util.spec_from_file_location(f"on_ray_{name}", END_TO_END / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wanted = chosen or [each for each in vars(module) if each.startswith("test_")]
    return {each: getattr(module, each) for each in wanted}


globals().update(suite("test_captured"))
globals().update(suite("test_options"))
globals().update(
    suite(
        "test_service",
        "test_ranks_as_the_model_itself_does",
        "test_a_chunked_upload_of_ten_megabytes_is_answered",
        "test_a_client_that_expects_100_continue_gets_it_at_once",
    )
)
