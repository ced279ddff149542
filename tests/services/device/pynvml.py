"""NVML as a stand-in: as many cards as DEVICE_CARDS says, none and no driver without it."""

import os
from types import SimpleNamespace


class NVMLError(Exception):
    """An error of the driver."""


def _count():
    return int(os.environ.get("DEVICE_CARDS", "0"))


def nvmlInit():  # noqa: N802 - NVML's name, as those below
    if not _count():
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown():  # noqa: N802
    pass


def nvmlSystemGetDriverVersion():  # noqa: N802
    return "580.95.05"


def nvmlSystemGetCudaDriverVersion():  # noqa: N802
    return 13000


def nvmlDeviceGetCount():  # noqa: N802
    return _count()


def nvmlDeviceGetHandleByIndex(number):  # noqa: N802
    if number >= _count():
        raise NVMLError("Invalid Argument")
    return number


def nvmlDeviceGetHandleByUUID(name):  # noqa: N802
    return nvmlDeviceGetHandleByIndex(int(name.removeprefix("GPU-")))


def nvmlDeviceGetUUID(number):  # noqa: N802
    return f"GPU-{number}"


def nvmlDeviceGetMigMode(number):  # noqa: N802, ARG001
    raise NVMLError("Not Supported")


def nvmlDeviceGetName(number):  # noqa: N802, ARG001
    return "NVIDIA Stand-in"


def nvmlDeviceGetMemoryInfo(number):  # noqa: N802, ARG001
    return SimpleNamespace(total=2**34, free=int(os.environ.get("DEVICE_FREE_BYTES", "8589934592")))
