"""uvicorn's HTTP connection with a timeout for clients that send or read slowly."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536
"""The maximum size of a request's first line and headers, in bytes."""


def connection_type(timeout: float) -> type[HttpToolsProtocol]:
    """Return a subclass of uvicorn's connection that closes itself after waiting `timeout` seconds for the client.

    It waits for the complete headers of a request, for the client to read the answer, and for the next request. The
    application has to limit the time for a request's body.
    """

    class Connection(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _in_head = True
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_client()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self.transport.abort()

        def on_message_begin(self) -> None:
            self._in_head, self._head_bytes = True, 0
            self._wait_for_client()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_waiting()
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.pipeline:
                self._wait_for_client()  # for the next request, or the rest of a body that nobody reads

        def pause_writing(self) -> None:
            self._wait_for_client()
            super().pause_writing()

        def resume_writing(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_client()
            else:
                self._stop_waiting()
            super().resume_writing()

        def _wait_for_client(self) -> None:
            self._stop_waiting()
            self._timer = self.loop.call_later(timeout, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # `close` would wait until the client has read the answer
            else:
                self.transport.close()

    return Connection
