"""What a route finds in the application, and what the middleware leaves in a request."""

from aiohttp import web

from bus.blobs import Blobs
from bus.client import Bus
from http_edge.config import EdgeConfig

BUS = web.AppKey("bus", Bus)
CONFIG = web.AppKey("config", EdgeConfig)
BLOBS = web.AppKey("blobs", Blobs)

REQUEST_ID = web.RequestKey("request_id", str)
