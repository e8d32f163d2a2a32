"""Where untrusted programs run: requests and results, boxes to run them in, and the doctor."""

from openzaya.sandbox.executor import Executor, Limits, Request, Result, Status

__all__ = ["Executor", "Limits", "Request", "Result", "Status"]
