"""What the routes share: made once by :func:`moeash.service.app.create_app`."""

from dataclasses import dataclass

from moeash.launch.queue import Queue
from moeash.service.access.auth import Auth
from moeash.service.access.roots import Roots
from moeash.service.access.uploads import Uploads
from moeash.service.metrics import Metrics
from moeash.service.views.charts import Charts
from moeash.service.views.studies import Studies
from moeash.service.views.tail import Tail
from moeash.study.storage.access.audit import Audit
from moeash.study.storage.sql import SqlStorage


@dataclass(frozen=True)
class Context:
    """The parts of a running service.

    Attributes:
        storage: what is remembered.
        studies: as documents.
        charts: columns of the studies looked at.
        tail: new events.
        queue: starts and stops studies and exports.
        auth: who asks, and what they may.
        roots: what specs from the network may name.
        audit: who did what.
        uploads: files from the network.
        metrics: for Prometheus.
    """

    storage: SqlStorage
    studies: Studies
    charts: Charts
    tail: Tail
    queue: Queue
    auth: Auth
    roots: Roots
    audit: Audit
    uploads: Uploads
    metrics: Metrics
