"""POST /api/rag/search: passages, without an answer."""

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.messages.rag import (
    Candidates,
    CollectionName,
    Collections,
    Filter,
    Fusion,
    Mode,
    Query,
    SearchDocuments,
    SearchResults,
    Threshold,
    TopK,
)
from bus.subjects import SEARCH_DOCUMENTS
from http_edge.rag import Source, ask_rag
from http_edge.rag_search import Retrieved, retrieved, search_of
from http_edge.wire import ModelName, json_response, read_body

