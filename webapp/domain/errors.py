"""Every way a rerank can fail, each class a promise to the caller.

The docstring is the promise, `code` is stable across releases, `retryable` says whether the same request may
succeed later. HTTP numbers are not here: `webapp.api.errors` alone knows them.
"""

from __future__ import annotations

from collections.abc import Mapping


class RerankError(Exception):
    """An error that the caller is told."""

    code = "error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: int | None = None,
        figures: Mapping[str, float] | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.figures = figures or {}
        """Numbers for programs: `queued`, `limit`, `eta_s`, `scored`, `total`."""
        self.reason = reason
        """Which limit or state refused the request, one word, for metrics."""


class InvalidRequestError(RerankError):
    """The request is malformed; `field` names the place, sending it again will not help."""

    code = "invalid_request"


class EmptyRequestError(InvalidRequestError):
    """The request holds nothing to rank."""


class PayloadTooLargeError(RerankError):
    """The request is larger than this service ever accepts."""

    code = "payload_too_large"


class UnsupportedEncodingError(RerankError):
    """The body is compressed in a way that this service does not unpack; the message lists what it does."""

    code = "unsupported_encoding"


class UnauthorizedError(RerankError):
    """The request carries no key that opens this service."""

    code = "unauthorized"


class NotFoundError(RerankError):
    """There is nothing at this path."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """The request names a model that is not served here, and the settings are strict."""

    code = "model_not_found"


class MethodNotAllowedError(RerankError):
    """The path exists, the HTTP method does not apply to it."""

    code = "method_not_allowed"


class OverloadedError(RerankError):
    """The service is full; nothing was done, and the same request may be sent again after `retry_after_s`."""

    code = "overloaded"
    retryable = True


class RateLimitedError(RerankError):
    """The caller asked for more in a minute than it may; nothing was done, come again after `retry_after_s`."""

    code = "rate_limited"
    retryable = True


class UnavailableError(RerankError):
    """The service is starting, stopping or broken; nothing was done, another try may succeed."""

    code = "unavailable"
    retryable = True


class DeadlineExceededError(RerankError):
    """The request's time was over before every pair was scored; its remaining work was given up."""

    code = "deadline_exceeded"
    retryable = True


class CancelledError(RerankError):
    """The caller hung up; what was left of its work was given up. Only the log has this."""

    code = "cancelled"
    retryable = True


class EngineFailedError(RerankError):
    """The engine could not score this request; no score was made up."""

    code = "engine_failed"
    retryable = True


class EngineLostError(BaseException):  # no Exception: whoever handles those would go on with this engine
    """The engine can't compute any more in this process: its thread ends, and so the worker does."""


class InternalError(RerankError):
    """A fault of ours; the log has the details under the request id."""

    code = "internal"
    retryable = True


MOST_REASON_CHARS = 300


def reason_of(error: BaseException) -> str:
    """Return a library's error as one line: some come with pages of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    first = " ".join(lines[: 1 + lines[0].endswith(":")])
    name = type(error).__name__
    return f"{name}: {first}"[:MOST_REASON_CHARS] if first else name


class SetupError(Exception):
    """The service can't start as configured; the message is one line that ends with the remedy."""
