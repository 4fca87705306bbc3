"""The protocol: every subject, with the types spoken on it. docs/subjects.md tells the same in words."""

from typing import Generic, TypeVar
from urllib.parse import quote, unquote

from msgspec import Struct

from bus.messages.batches import (
    BatchList,
    BatchReply,
    CancelBatch,
    CreateBatch,
    FailBatch,
    FinishBatch,
    GetBatch,
    ListBatches,
    StartBatch,
)
from bus.messages.chat import ChatChunk, ChatRequest
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.messages.files import DeleteFile, FileList, FileReply, GetFile, ListFiles, PutFile
from bus.messages.history import (
    Exported,
    ExportHistory,
    HistoryQuery,
    HistoryReply,
    HistoryStats,
    HistoryTable,
    JobHistory,
    JobQuery,
    ListViews,
    QueryHistory,
    RebuildHistory,
    Rebuilt,
    ViewList,
)
from bus.messages.jobs import CancelJob, GetJob, JobReply, JobsRefused, RefuseJobs, ReplayJob, SubmitJob
from bus.messages.models import (
    CatalogueReloaded,
    GetModel,
    ListModels,
    LoadModel,
    ModelCard,
    ModelList,
    ModelProgress,
    ModelRemoved,
    ReloadCatalogue,
    RemoveModel,
    UnloadModel,
)
from bus.messages.rag import EvaluateSearch, Evaluation, Hit, QueryChunk, QueryDocuments, SearchDocuments, SearchResults
from bus.messages.rag_documents import (
    CollectionCard,
    CollectionList,
    CollectionRemoved,
    DeleteCollection,
    DeleteDocuments,
    DocumentCard,
    DocumentList,
    DocumentsDeleted,
    GetChunk,
    GetCollection,
    GetDocument,
    IngestDocuments,
    IngestProgress,
    ListCollections,
    ListDocuments,
    RebuildCollection,
    Verified,
    VerifyCollection,
)
from bus.messages.rerank import RerankChunk, RerankRequest
from bus.messages.responses import DeleteResponse, GetResponse, PutResponse, ResponseReply
from bus.messages.slots import LoadSlot, SlotLoaded
from bus.messages.subscriptions import (
    CreateSubscription,
    DeleteSubscription,
    GetSubscription,
    ListSubscriptions,
    SubscriptionDeleted,
    SubscriptionList,
    SubscriptionReply,
)
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens
from bus.messages.webhooks import (
    DeleteWebhook,
    DeliveryList,
    DeliveryReply,
    GetWebhook,
    ListDeliveries,
    ListWebhooks,
    Redeliver,
    RegisterWebhook,
    TryWebhook,
    WebhookDeleted,
    WebhookList,
    WebhookReply,
    WebhookTried,
)

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


def escape(text: str) -> str:
    """Return `text` as one subject token: UTF-8 percent form for what NATS forbids and for `%` itself.

    Reversed by `unescape`. `/` stays. Raises ValueError for the empty text, which is no token.
    """
    if not text:
        raise ValueError("an empty text cannot be a subject token")
    return quote(text, safe="/:@+").replace(".", "%2E").replace("~", "%7E")


def unescape(token: str) -> str:
    """Return the text that `escape` made `token` from."""
    return unquote(token)


class Address(Struct, Generic[RequestT, ReplyT], frozen=True):
    """A subject with its tokens filled in: where a message goes."""

    name: str
    request: type[RequestT]
    reply: type[ReplyT]
    streamed: bool


class Subject(Struct, Generic[RequestT, ReplyT], frozen=True):
    """A NATS subject together with the types spoken on it.

    Called with one text per `*` of its pattern, it gives the address. `streamed` replies are frames
    (bus/frames.py), others one message.
    """

    pattern: str
    request: type[RequestT]
    reply: type[ReplyT]
    streamed: bool = False

    def __call__(self, *tokens: str) -> Address[RequestT, ReplyT]:
        """Return the address with `tokens` escaped in place of the pattern's wildcards."""
        filled = fill(self.pattern, *tokens)
        return Address(filled, self.request, self.reply, self.streamed)

    def at(self, model: str, instance: str) -> Address[RequestT, ReplyT]:
        """Return the address of one instance of `model`."""
        filled = f"{fill(self.pattern, model)}.{escape(instance)}"
        return Address(filled, self.request, self.reply, self.streamed)


def fill(pattern: str, *tokens: str) -> str:
    """Return `pattern` with its `*` replaced by `tokens`, escaped, in order."""
    parts = pattern.split("*")
    if len(parts) - 1 != len(tokens):
        raise ValueError(f"{pattern} takes {len(parts) - 1} tokens, got {len(tokens)}")
    return parts[0] + "".join(escape(token) + part for token, part in zip(tokens, parts[1:], strict=True))


def instance_of(cancel_subject: str) -> str:
    """Return the instance that a subject made from CANCEL tells of; an empty text for another subject."""
    tokens = cancel_subject.split(".")
    return unescape(tokens[2]) if len(tokens) == CANCEL.count(".") + 1 else ""


WAKE = "fusion.wake.*.*.*"  # priority, model, job id: a job was queued


def queue_of(model: str) -> str:
    """Return the pattern under which the queued jobs of `model` lie in the stream JOBS."""
    return f"fusion.queue.*.{escape(model)}.*"


def consumer_of_subscription(name: str) -> str:
    """Return the name of the durable consumer of EVENTS that keeps the place of the subscription."""
    return f"tier2_{name}"


def wake_of(model: str) -> str:
    """Return the pattern under which idle workers of `model` hear that a job was queued."""
    return f"fusion.wake.*.{escape(model)}.*"


# Model actors: one token, the model's id.
CHAT = Subject("fusion.chat.*", ChatRequest, ChatChunk, streamed=True)
COMPLETE = Subject("fusion.complete.*", ChatRequest, ChatChunk, streamed=True)
EMBED = Subject("fusion.embed.*", EmbedRequest, EmbedChunk, streamed=True)
RERANK = Subject("fusion.rerank.*", RerankRequest, RerankChunk, streamed=True)
TOKENIZE = Subject("fusion.tokenize.*", TokenizeRequest, Tokens)
DETOKENIZE = Subject("fusion.detokenize.*", DetokenizeRequest, Detokenized)

# Owners of a state.
SUBMIT_JOB = Subject("fusion.jobs.submit", SubmitJob, JobReply)
GET_JOB = Subject("fusion.jobs.get", GetJob, JobReply)
CANCEL_JOB = Subject("fusion.jobs.cancel", CancelJob, JobReply)
REPLAY_JOB = Subject("fusion.jobs.replay", ReplayJob, JobReply)
REFUSE_JOBS = Subject("fusion.jobs.refuse", RefuseJobs, JobsRefused)
PUT_RESPONSE = Subject("fusion.responses.put", PutResponse, ResponseReply)
GET_RESPONSE = Subject("fusion.responses.get", GetResponse, ResponseReply)
DELETE_RESPONSE = Subject("fusion.responses.delete", DeleteResponse, ResponseReply)
PUT_FILE = Subject("fusion.files.put", PutFile, FileReply)
GET_FILE = Subject("fusion.files.get", GetFile, FileReply)
LIST_FILES = Subject("fusion.files.list", ListFiles, FileList)
DELETE_FILE = Subject("fusion.files.delete", DeleteFile, FileReply)
CREATE_BATCH = Subject("fusion.batches.create", CreateBatch, BatchReply)
START_BATCH = Subject("fusion.batches.start", StartBatch, BatchReply)
FAIL_BATCH = Subject("fusion.batches.fail", FailBatch, BatchReply)
FINISH_BATCH = Subject("fusion.batches.finish", FinishBatch, BatchReply)
GET_BATCH = Subject("fusion.batches.get", GetBatch, BatchReply)
LIST_BATCHES = Subject("fusion.batches.list", ListBatches, BatchList)
CANCEL_BATCH = Subject("fusion.batches.cancel", CancelBatch, BatchReply)
LIST_HISTORY = Subject("fusion.history.list", HistoryQuery, HistoryReply)
GET_HISTORY = Subject("fusion.history.get", JobQuery, JobHistory)
REBUILD_HISTORY = Subject("fusion.history.rebuild", RebuildHistory, Rebuilt)
LIST_VIEWS = Subject("fusion.history.views", ListViews, ViewList)
HISTORY_STATS = Subject("fusion.history.stats", HistoryStats, HistoryTable)
QUERY_HISTORY = Subject("fusion.history.query", QueryHistory, HistoryTable)
EXPORT_HISTORY = Subject("fusion.history.export", ExportHistory, Exported)
LIST_MODELS = Subject("fusion.models.list", ListModels, ModelList)
GET_MODEL = Subject("fusion.models.get", GetModel, ModelCard)
LOAD_MODEL = Subject("fusion.models.load", LoadModel, ModelProgress, streamed=True)
UNLOAD_MODEL = Subject("fusion.models.unload", UnloadModel, ModelProgress, streamed=True)
RELOAD_CATALOGUE = Subject("fusion.models.reload", ReloadCatalogue, CatalogueReloaded)
REMOVE_MODEL = Subject("fusion.models.remove", RemoveModel, ModelRemoved)
REGISTER_WEBHOOK = Subject("fusion.webhooks.register", RegisterWebhook, WebhookReply)
LIST_WEBHOOKS = Subject("fusion.webhooks.list", ListWebhooks, WebhookList)
GET_WEBHOOK = Subject("fusion.webhooks.get", GetWebhook, WebhookReply)
DELETE_WEBHOOK = Subject("fusion.webhooks.delete", DeleteWebhook, WebhookDeleted)
TEST_WEBHOOK = Subject("fusion.webhooks.test", TryWebhook, WebhookTried)
LIST_DELIVERIES = Subject("fusion.webhooks.deliveries", ListDeliveries, DeliveryList)
REDELIVER = Subject("fusion.webhooks.redeliver", Redeliver, DeliveryReply)
CREATE_SUBSCRIPTION = Subject("fusion.subscriptions.create", CreateSubscription, SubscriptionReply)
LIST_SUBSCRIPTIONS = Subject("fusion.subscriptions.list", ListSubscriptions, SubscriptionList)
GET_SUBSCRIPTION = Subject("fusion.subscriptions.get", GetSubscription, SubscriptionReply)
DELETE_SUBSCRIPTION = Subject("fusion.subscriptions.delete", DeleteSubscription, SubscriptionDeleted)
INGEST_DOCUMENTS = Subject("fusion.rag.ingest", IngestDocuments, IngestProgress, streamed=True)
SEARCH_DOCUMENTS = Subject("fusion.rag.search", SearchDocuments, SearchResults)
QUERY_DOCUMENTS = Subject("fusion.rag.query", QueryDocuments, QueryChunk, streamed=True)
EVALUATE_SEARCH = Subject("fusion.rag.eval", EvaluateSearch, Evaluation, streamed=True)
LIST_COLLECTIONS = Subject("fusion.rag.collections.list", ListCollections, CollectionList)
GET_COLLECTION = Subject("fusion.rag.collections.get", GetCollection, CollectionCard)
DELETE_COLLECTION = Subject("fusion.rag.collections.delete", DeleteCollection, CollectionRemoved)
REBUILD_COLLECTION = Subject("fusion.rag.collections.rebuild", RebuildCollection, CollectionCard, streamed=True)
VERIFY_COLLECTION = Subject("fusion.rag.collections.verify", VerifyCollection, Verified, streamed=True)
LIST_DOCUMENTS = Subject("fusion.rag.documents.list", ListDocuments, DocumentList)
GET_DOCUMENT = Subject("fusion.rag.documents.get", GetDocument, DocumentCard)
DELETE_DOCUMENTS = Subject("fusion.rag.documents.delete", DeleteDocuments, DocumentsDeleted)
GET_CHUNK = Subject("fusion.rag.chunks.get", GetChunk, Hit)

# Heavy slots: one token, the instance.
LOAD_SLOT = Subject("fusion.slots.load.*", LoadSlot, SlotLoaded, streamed=True)

REQUESTS = (
    CHAT,
    COMPLETE,
    EMBED,
    RERANK,
    TOKENIZE,
    DETOKENIZE,
    SUBMIT_JOB,
    GET_JOB,
    CANCEL_JOB,
    REPLAY_JOB,
    REFUSE_JOBS,
    PUT_RESPONSE,
    GET_RESPONSE,
    DELETE_RESPONSE,
    PUT_FILE,
    GET_FILE,
    LIST_FILES,
    DELETE_FILE,
    CREATE_BATCH,
    START_BATCH,
    FAIL_BATCH,
    FINISH_BATCH,
    GET_BATCH,
    LIST_BATCHES,
    CANCEL_BATCH,
    LIST_HISTORY,
    GET_HISTORY,
    REBUILD_HISTORY,
    LIST_VIEWS,
    HISTORY_STATS,
    QUERY_HISTORY,
    EXPORT_HISTORY,
    LIST_MODELS,
    GET_MODEL,
    LOAD_MODEL,
    UNLOAD_MODEL,
    RELOAD_CATALOGUE,
    REMOVE_MODEL,
    REGISTER_WEBHOOK,
    LIST_WEBHOOKS,
    GET_WEBHOOK,
    DELETE_WEBHOOK,
    TEST_WEBHOOK,
    LIST_DELIVERIES,
    REDELIVER,
    CREATE_SUBSCRIPTION,
    LIST_SUBSCRIPTIONS,
    GET_SUBSCRIPTION,
    DELETE_SUBSCRIPTION,
    INGEST_DOCUMENTS,
    SEARCH_DOCUMENTS,
    QUERY_DOCUMENTS,
    EVALUATE_SEARCH,
    LIST_COLLECTIONS,
    GET_COLLECTION,
    DELETE_COLLECTION,
    REBUILD_COLLECTION,
    VERIFY_COLLECTION,
    LIST_DOCUMENTS,
    GET_DOCUMENT,
    DELETE_DOCUMENTS,
    GET_CHUNK,
    LOAD_SLOT,
)

# Core NATS, no reply. Patterns for `fill` and for subscribing.
HEARTBEAT = "fusion.heartbeat.*"  # instance; carries a Heartbeat
CANCEL = "fusion.control.*.cancel.*"  # instance, request id; no payload
DRAIN = "fusion.control.*.drain"  # instance; carries a Drain
RELOADED = "fusion.models.reloaded"  # carries a CatalogueReloaded
RELEASED = "fusion.control.*.released.*"  # instance that gave the lease, lease; no payload

# JetStream (bus/streams.py).
EVENTS = "fusion.event.>"
FEED = "fusion.feed.>"
JOB_EVENT = "fusion.event.job.*.*"  # job id, what happened
JOB_QUEUED = "fusion.event.job.*.queued.*.*"  # job id, priority, model
JOB_EVENTS = "fusion.event.job.*.>"  # job id: all that happened to it
JOB_FEED = "fusion.feed.job.*.>"
CANCEL_FEED = "fusion.feed.job.*.cancel_requested"  # job id
RESPONSE_EVENT = "fusion.event.response.*.*"  # response id, what happened
RESPONSE_EVENTS = "fusion.event.response.*.>"  # response id: all that happened to it
REQUEST_FINISHED = "fusion.event.request.*.finished"  # request id
MODEL_EVENT = "fusion.event.model.*.*"  # model, what happened
MODEL_EVENTS = "fusion.event.model.*.>"  # model: all that happened to it
WEBHOOK_EVENT = "fusion.event.webhook.*.*"  # delivery id, what happened
WEBHOOK_EVENTS = "fusion.event.webhook.*.>"  # delivery id: all that happened to it
FILE_EVENT = "fusion.event.file.*.*"  # file id, what happened
FILE_EVENTS = "fusion.event.file.*.>"  # file id: all that happened to it
BATCH_EVENT = "fusion.event.batch.*.*"  # batch id, what happened
BATCH_FEED = "fusion.feed.batch.*.*"  # batch id, what happened
BATCH_EVENTS = "fusion.event.batch.*.>"  # batch id: all that happened to it
RAG_EVENT = "fusion.event.rag.*.*.*"  # collection, document or "-", what happened
RAG_EVENTS = "fusion.event.rag.*.*.>"  # collection, document or "-": all that happened to it
PROGRESS = "fusion.progress.job.*"  # job id; stream PROGRESS, carries a JobProgress
QUEUE = "fusion.queue.*.*.*"  # priority, model, job id
QUEUE_OF_MODEL = "fusion.queue.*.*.>"  # priority, model
DELIVERY = "fusion.delivery.*"  # delivery id
