"""Telling those who asked about the start and every token of their requests."""

import numpy as np
import numpy.typing as npt

from openzaya.engine.capture import Ledger
from openzaya.engine.request import Request, TokenEvent
from openzaya.engine.sampling import Draw, likeliest


class Listeners:
    """The running requests whose tokens somebody listens to, by ledger row."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}

    def open(self, request: Request) -> None:
        """Start the row of an admitted request, and say that it waits no longer."""
        if request.on_start is not None:
            request.on_start()
        if request.on_token is not None:
            self._requests[request.row] = request

    def close(self, row: int) -> None:
        """Forget the row of a request that ended."""
        self._requests.pop(row, None)

    def tell(
        self,
        rows: npt.NDArray[np.intp],
        draw: Draw,
        ledger: Ledger,
        finished: npt.NDArray[np.bool_],
        version: int,
    ) -> None:
        """Tell every listener its newest token, which `ledger` has recorded."""
        if not self._requests:
            return
        logprobs = draw.logprobs_B.tolist()
        for at, row in enumerate(rows.tolist()):
            request = self._requests.get(row)
            if request is None or request.on_token is None:
                continue
            wanted = request.params.top_logprobs
            request.on_token(
                TokenEvent(
                    request_id=request.request_id,
                    index=int(ledger.counts[row]) - 1,
                    token_id=int(ledger.last_tokens[row]),
                    logprob=logprobs[at],
                    version=version,
                    top=likeliest(draw.logprobs_of(at), wanted) if wanted else (),
                    finish_reason=ledger.reason(row) if finished[at] else None,
                )
            )
