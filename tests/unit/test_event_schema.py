"""The JSON schema of the events, for readers who have no Python."""

import json
import re

import jsonschema
import pytest

from eventlog.events import Unknown, decode, encode
from eventlog.schema import kinds, schema, schema_of
from tests.support import make
from tests.support.docs import DOCS, page

BUILDERS = (
    make.job_queued,
    make.job_started,
    make.job_retry_scheduled,
    make.job_cancel_requested,
    make.job_completed,
    make.job_failed,
    make.job_cancelled,
    make.request_finished,
    make.response_stored,
    make.response_deleted,
    make.collection_created,
    make.document_stored,
    make.document_deleted,
    make.collection_deleted,
)


def test_file_in_the_docs_is_current() -> None:
    kept = json.loads((DOCS / "events" / "schema.json").read_text(encoding="utf-8"))

    assert kept == schema(), "run `just schemas`"


def test_schema_of_each_kind_is_a_valid_schema() -> None:
    for kind in kinds():
        jsonschema.Draft202012Validator.check_schema(schema_of(kind))


def test_examples_of_the_docs_are_valid() -> None:
    found = re.findall(r"```json\n(.*)\n```", page("events.md"))
    examples = [example for example in map(json.loads, found) if example["type"] in kinds()]
    whole = jsonschema.Draft202012Validator(schema())

    assert len(examples) >= 15
    for example in examples:
        jsonschema.validate(example, schema_of(example["type"]))
        whole.validate(example)


@pytest.mark.parametrize("build", BUILDERS)
def test_recorded_event_is_valid_and_one_that_lacks_a_field_is_not(build: object) -> None:
    recorded = json.loads(encode(build()))  # type: ignore[operator]
    own = schema_of(recorded["type"])

    jsonschema.validate(recorded, own)
    del recorded["at"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recorded, own)


def test_event_of_a_later_version_with_another_field_is_valid() -> None:
    recorded = json.loads(encode(make.job_completed())) | {"colour": "red"}

    jsonschema.validate(recorded, schema())
    assert not isinstance(decode(json.dumps(recorded).encode()), Unknown)


def test_kind_that_there_is_not_has_no_schema() -> None:
    assert schema_of("job.exploded") is None
