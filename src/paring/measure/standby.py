"""A process that is kept running for whoever needs it next."""

from __future__ import annotations

from paring.backends.isolated import Deployment, IsolatedSession


class Standby:
    """A process of a deployment that is started when it is needed, and again where it has died."""

    def __init__(self, deployment: Deployment, threads: int) -> None:
        self._deployment, self._threads = deployment, threads
        self._session: IsolatedSession | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._session is not None and self._session.alive

    def session(self) -> IsolatedSession:
        """One that runs."""
        if not self.alive:
            self.close()
        if self._session is None:
            self._session = IsolatedSession.of(self._deployment, threads=self._threads)
        return self._session

    def close(self) -> None:
        """End the process, if there is one."""
        if self._session is not None:
            self._session.close()
        self._session = None
