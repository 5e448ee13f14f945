"""Filters, sorts and pages the list of jobs as ListPipelineJobsRequest documents it, with no extensions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from kubeflow.emulator.documents import Document, walk
from kubeflow.emulator.expressions import parse

PAGE, MAX_PAGE = 100, 1000

_EQUAL, _WILD, _ORDERED = ("=", "!="), ("=", "!=", ":"), ("=", "!=", "<", ">", "<=", ">=")
_SIGNS = {
    "pipeline_name": _EQUAL,
    "display_name": _WILD,
    "pipeline_job_user_id": _WILD,
    "state": _EQUAL,
    "create_time": _ORDERED,
    "update_time": _ORDERED,
    "end_time": _ORDERED,
    "labels": (":",),
    "labels.KEY": _WILD,
    "template_uri": _WILD,
    "template_metadata.version": _WILD,
}
_TIMES = ("create_time", "update_time", "end_time", "start_time")
_STATES = [
    f"PIPELINE_STATE_{name}"
    for name in ("QUEUED", "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLING", "CANCELLED", "PAUSED")
]


def wanted(text: str) -> Callable[[Document], bool]:
    """Parses the filter of a list into a function that decides whether the list contains a job.

    Raises:
      ValueError: the filter is invalid.
    """
    holds = parse(text, _judge)
    return lambda job: bool(holds(_view(job)))


def in_order(jobs: Iterable[Document], text: str) -> Iterable[Document]:
    """Sorts jobs by a text such as `create_time desc, end_time`; an empty text keeps their order.

    Raises:
      ValueError: the text is no valid order.
    """
    fields = text.split(",") if text.strip() else []
    if len(fields) > len(_TIMES):
        raise ValueError(f"invalid order_by: it names {len(fields)} times; at most {len(_TIMES)} are taken")
    for field in reversed(fields):
        match = re.fullmatch(rf"\s*({'|'.join(_TIMES)})(?:\s+(asc|desc))?\s*", field)
        if not match:
            raise ValueError(f"invalid order_by {field.strip()!r}: it is one of {', '.join(_TIMES)}, and asc or desc")
        jobs = sorted(jobs, key=lambda job, name=match[1]: walk(job, name) or "", reverse=match[2] == "desc")
    return jobs


def page(size: str, token: str) -> slice:
    """The requested part of a list.

    Raises:
      ValueError: the size or the token is invalid.
    """
    for name, value in (("page_size", size), ("page_token", token)):
        if not re.fullmatch("[0-9]{0,9}", value):
            raise ValueError(f"invalid {name} {value!r}")
    start = int(token or 0)
    return slice(start, start + min(int(size or 0) or PAGE, MAX_PAGE))


def _judge(path: str, sign: str, value: Any) -> Any:
    field = "labels.KEY" if re.match(r"labels[.\[]", path) else path
    if sign not in _SIGNS.get(field, ()):
        hint = f"{field} takes {' '.join(_SIGNS[field])}" if field in _SIGNS else f"fields are {', '.join(_SIGNS)}"
        raise ValueError(f"invalid filter: {path} {sign}".strip() + f" is not supported; {hint}")
    text = value if isinstance(value, str) else f"{value:.15g}" if isinstance(value, float) else json.dumps(value)
    if field in _TIMES:
        return _time(text)
    if field == "state" and text not in _STATES:
        raise ValueError(f"invalid filter: there is no state {text!r}")
    return text


def _time(text: str) -> int:
    moment = Timestamp()
    try:
        moment.FromJsonString(text)
    except ValueError as error:
        raise ValueError(f"invalid filter: {text!r} is no time in RFC 3339 format ({error})") from None
    return moment.ToNanoseconds()


def _view(job: Document) -> Document:
    times = {name: _time(text) for name in _TIMES if (text := walk(job, name))}
    name, job_id = walk(job, "pipelineSpec.pipelineInfo.name"), job["name"].rpartition("/")[2]
    return {**job, "pipeline_name": name, "pipeline_job_user_id": job_id, **times}
