"""How to reach the bus, and how to run its server."""

from pathlib import Path
from typing import Annotated

import msgspec

# Thirty years: what is larger cannot be told to nats-server, or is in no calendar.
MOST_SECONDS = 1e9
Seconds = Annotated[float, msgspec.Meta(gt=0, le=MOST_SECONDS)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class BusConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server and the state are, and how long to wait for what. All times in seconds.

    `admit_timeout`: until somebody takes a request; `first_timeout`: until the first piece of a streamed
    answer after that; `idle_timeout`: between two pieces; `silence`: without heartbeats, an instance counts
    as lost; `append_timeout`: until an event is stored. `monitor_url` is the server's HTTP port, if it is known.
    """

    url: str = ""
    monitor_url: str = ""
    state_dir: Path = Path("~/.fusion")
    admit_timeout: Seconds = 5.0
    first_timeout: Seconds = 600.0
    idle_timeout: Seconds = 120.0
    silence: Seconds = 6.0
    append_timeout: Seconds = 5.0

    @property
    def state(self) -> Path:
        """The state folder, whole."""
        return self.state_dir.expanduser().absolute()

    @property
    def blobs(self) -> Path:
        """The folder of the blobs."""
        return self.state / "blobs"

    @property
    def uploads(self) -> Path:
        """The folder of the blobs that are needed only until a request is answered."""
        return self.state / "uploads"

    @property
    def rag(self) -> Path:
        """The folder of the rag actor."""
        return self.state / "rag"

    @property
    def rag_blobs(self) -> Path:
        """The folder of the blobs of documents, which are kept until their document is deleted."""
        return self.rag / "blobs"


class NatsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The child nats-server. Port 0 takes a free one. `sync` is its `sync_interval`: `always` or a duration."""

    port: Port = 4222
    monitor_port: Port = 0
    sync: Annotated[str, msgspec.Meta(pattern=r"^(always|([0-9.]+(ns|us|ms|s|m|h))+)\Z")] = "always"


# Environment variables and the fields they set.
BUS_VARIABLES = {
    "FUSION_NATS_URL": "url",
    "FUSION_NATS_MONITOR_URL": "monitor_url",
    "FUSION_STATE_DIR": "state_dir",
}
NATS_VARIABLES = {"FUSION_NATS_SERVER_PORT": "port", "FUSION_NATS_SYNC_INTERVAL": "sync"}
