"""The versions of FODC: their messages, streams and limits."""

import dataclasses
import datetime
import math

from google.protobuf.timestamp_pb2 import Timestamp

from .wire import generated, unknown_fields

SERVICE = "banyandb.fodc.v1.FODCService"
REGISTER, METRICS = "RegisterAgent", "StreamMetrics"

messages, _ = generated("fodc_plain.proto")

GAUGE, COUNTER, HISTOGRAM = (
    messages.MetricType.Value(f"METRIC_TYPE_{name}") for name in ("GAUGE", "COUNTER", "HISTOGRAM")
)


@dataclasses.dataclass(frozen=True)
class Version:
    name: str
    # Every method, in the order in which an agent opens them.
    methods: tuple
    registration: type
    response: type
    metric: type
    # Maximum bytes of a message at a proxy.
    limit: int
    # The labels that an agent adds to its samples.
    stamps: frozenset
    # Attempts of an agent after the loss of a stream: none, one, or unlimited.
    recovers: str

    @property
    def has_pods(self):
        return self.registration is messages.RegisterAgentRequest

    @property
    def has_types(self):
        return self.metric is messages.Metric

    def __str__(self):
        return self.name


_RELEASE = frozenset({"node_role", "pod_name", "container_name"})
_RELEASED = (REGISTER, METRICS, "StreamClusterTopology", "StreamLifecycle")

SEED = Version(
    name="seed",
    methods=(REGISTER, METRICS),
    registration=messages.SeedRegisterAgentRequest,
    response=messages.SeedStreamMetricsRequest,
    metric=messages.SeedMetric,
    limit=4 << 20,
    stamps=frozenset(),
    recovers="never",
)
UNTYPED_RELEASE = dataclasses.replace(
    SEED,
    name="0.10.2",
    methods=_RELEASED,
    registration=messages.RegisterAgentRequest,
    stamps=_RELEASE,
    recovers="once",
)
TYPED_RELEASE = dataclasses.replace(
    UNTYPED_RELEASE, name="0.10.3", response=messages.StreamMetricsRequest, metric=messages.Metric
)
NEWEST = dataclasses.replace(
    TYPED_RELEASE,
    name="newest",
    methods=(*_RELEASED, "StreamSchemaRegistry", "StreamCrashDiagnostics", "StreamPressureProfiles"),
    limit=32 << 20,
    stamps=_RELEASE | {"node_<label>"},
    recovers="always",
)
VERSIONS = (SEED, UNTYPED_RELEASE, TYPED_RELEASE, NEWEST)


@dataclasses.dataclass(frozen=True)
class Node:
    """The identity of an agent."""

    pod: str = "db-0"
    role: str = "ROLE_DATA"
    labels: dict = dataclasses.field(default_factory=lambda: {"type": "hot"})
    container: str = "data"
    ip: str = "10.0.0.1"
    port: int = 17912

    def registration(self, version):
        if version.has_pods:
            return messages.RegisterAgentRequest(
                node_role=self.role,
                labels=self.labels,
                pod_name=self.pod,
                container_names=[self.container],
            )
        return messages.SeedRegisterAgentRequest(
            node_role=self.role,
            labels=self.labels,
            primary_address=messages.SeedAddress(ip=self.ip, port=self.port),
        )

    def stamp(self, version):
        """The labels that an agent of that version puts on each of its samples."""
        of_node = {"node_role": self.role, "pod_name": self.pod, "container_name": self.container}
        stamp = {name: value for name, value in of_node.items() if name in version.stamps}
        if "node_<label>" in version.stamps:
            stamp |= {f"node_{name}": value for name, value in self.labels.items()}
        return stamp

    def name(self, version):
        """The name that a proxy uses."""
        return self.pod if version.has_pods else f"{self.ip}:{self.port}"


def moment(seconds):
    """A Timestamp of Unix seconds, exact to the microsecond."""
    whole = math.floor(seconds)
    return Timestamp(seconds=whole, nanos=round((seconds - whole) * 1e6) * 1000)


def seconds(timestamp):
    return timestamp.seconds + timestamp.nanos / 1e9


def rfc3339(unix):
    text = datetime.datetime.fromtimestamp(unix, datetime.UTC).isoformat()
    return text.removesuffix("+00:00") + "Z"


def query(start=None, end=None):
    """The latest values without times; one time alone leaves the other end open."""
    message = messages.StreamMetricsResponse()
    if start is not None:
        message.start_time.CopyFrom(moment(start))
    if end is not None:
        message.end_time.CopyFrom(moment(end))
    return message
