"""What a route finds in the application, and what the middleware and the route leave in a request."""

from aiohttp import web

from bus.blobs import Blobs
from bus.client import Bus
from http_edge.config import EdgeConfig

BUS = web.AppKey("bus", Bus)
CONFIG = web.AppKey("config", EdgeConfig)
BLOBS = web.AppKey("blobs", Blobs)
UPLOADS = web.AppKey("uploads", Blobs)
RAG_BLOBS = web.AppKey("rag_blobs", Blobs)

REQUEST_ID = web.RequestKey("request_id", str)

# For how many seconds a heavy model stays loaded after this request, where its body says so.
KEEP_ALIVE = web.RequestKey("keep_alive", float)
