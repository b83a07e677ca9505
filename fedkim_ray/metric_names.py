"""Every metric this package exports: one table, with unit, help and labels.

Dashboards and alert rules are tested against this file. Names carry their unit, as Prometheus
asks; Ray's exporter puts ``ray_`` in front of them.
"""

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Bucket edges from a served request to a long round, about three a decade."""
LATENCY = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
"""Bucket edges of a served request and of its stages: a token takes milliseconds."""
NATS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
"""Bucket edges of an entropy; twelve experts at equal weights have ln 12 = 2.48."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Bucket edges for batches."""
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Bucket edges for weights between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One time series, or one per combination of label values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """``seconds``, ``bytes``, ``nats``, ``1`` for a count or a ratio."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper edges of a histogram's buckets, positive and rising."""


# A run as a whole, set by the driver.
RUN_ACTIVE = Metric("fedkim_run_active", "gauge", "1", "1 while a run goes on, 0 once it is over.")
RUN_FAILURES = Metric(
    "fedkim_run_failures_total",
    "counter",
    "1",
    "Runs that an error ended, by its class; Ctrl-C, an abort and another driver are none.",
    ("cause",),
)
LAST_EVENT = Metric(
    "fedkim_last_event_timestamp_seconds",
    "gauge",
    "seconds",
    "Unix time of the run's last event: a client's answer, a step, anything.",
)
QUIET_LIMIT = Metric(
    "fedkim_quiet_limit_seconds",
    "gauge",
    "seconds",
    "Seconds without an event after which a run has stalled: twice a client's timeout.",
)

# Federation, set by the driver.
ROUND_INDEX = Metric("fedkim_round_index", "gauge", "1", "Rounds finished in this run.")
ROUND_SECONDS = Metric(
    "fedkim_round_seconds",
    "histogram",
    "seconds",
    "Client updates and aggregation of one round.",
    buckets=SECONDS,
)
PHASE_SECONDS = Metric(
    "fedkim_phase_seconds_total",
    "counter",
    "seconds",
    "Seconds of each phase of a round: train, collect, aggregate, publish, inject, evaluate.",
    ("phase",),
)
SLOWEST_WAIT_SECONDS = Metric(
    "fedkim_slowest_wait_seconds",
    "histogram",
    "seconds",
    "From when half of a round's answers had come to the last one, or to the end of the wait.",
    buckets=SECONDS,
)
CLIENT_SECONDS = Metric(
    "fedkim_client_seconds",
    "histogram",
    "seconds",
    "Training and validation of one client in one round.",
    ("client",),
    SECONDS,
)
CLIENT_LOSS = Metric(
    "fedkim_client_loss",
    "gauge",
    "1",
    "A client's mean training loss in its last round.",
    ("client",),
)
CLIENT_EXAMPLES = Metric(
    "fedkim_client_examples_total",
    "counter",
    "1",
    "Examples a client trained a parameter group on, counted once a round.",
    ("client", "group"),
)
UPDATE_NORM = Metric(
    "fedkim_update_norm",
    "gauge",
    "1",
    "Euclidean norm of a client's last update.",
    ("client",),
)
CLIENT_FAILURES = Metric(
    "fedkim_client_failures_total",
    "counter",
    "1",
    "Rounds that a client was asked for and took no part in, by the cause of its last failure.",
    ("client", "cause"),
)
LATE_UPDATES = Metric(
    "fedkim_late_updates_total",
    "counter",
    "1",
    "Updates that came after their round had ended and were discarded.",
    ("client",),
)
BYTES = Metric(
    "fedkim_bytes_total",
    "counter",
    "bytes",
    "Parameters sent to clients (down) and updates received from them (up).",
    ("direction",),
)

# Injection, set by the driver as its first worker tells of each step.
INJECTION_STEP_LOSS = Metric(
    "fedkim_injection_step_loss",
    "gauge",
    "1",
    "Cross-entropy of the answer tokens in the last step, over all tasks.",
)
INJECTION_LOSS = Metric(
    "fedkim_injection_loss",
    "gauge",
    "1",
    "Cross-entropy of the answer tokens in the last step of the last finished round.",
    ("task",),
)
INJECTION_ENTROPY = Metric(
    "fedkim_injection_routing_entropy_nats",
    "gauge",
    "nats",
    "Mean entropy of the examples' expert weights in the last step of the last finished round.",
)
INJECTION_EXPERT_LOAD = Metric(
    "fedkim_injection_expert_load",
    "gauge",
    "1",
    "Mean weight of an expert over the examples of the last step of the last finished round.",
    ("expert",),
)
INJECTION_STEPS = Metric("fedkim_injection_steps_total", "counter", "1", "Optimizer steps taken.")
INJECTION_STEP_SECONDS = Metric(
    "fedkim_injection_step_seconds",
    "histogram",
    "seconds",
    "From one optimizer step's end to the next one's.",
    buckets=SECONDS,
)

# Serving, set by replicas. The version label tells a rolling update's two halves apart; the other
# metrics join on their replica with fedkim_bundle_info.
REQUESTS = Metric(
    "fedkim_requests_total",
    "counter",
    "1",
    "Requests answered, by task, HTTP status and bundle version.",
    ("task", "status", "bundle_version"),
)
REQUEST_SECONDS = Metric(
    "fedkim_request_seconds",
    "histogram",
    "seconds",
    "From arrival to the last byte of the answer.",
    ("task",),
    LATENCY,
)
FIRST_TOKEN_SECONDS = Metric(
    "fedkim_first_token_seconds",
    "histogram",
    "seconds",
    "From arrival in the engine to the first generated token.",
    ("task",),
    LATENCY,
)
DECODE_SECONDS = Metric(
    "fedkim_decode_seconds",
    "histogram",
    "seconds",
    "Decoding and checking one patient's inputs.",
    buckets=LATENCY,
)
ENCODE_SECONDS = Metric(
    "fedkim_encode_seconds",
    "histogram",
    "seconds",
    "Encoders and aligners over one request's inputs.",
    buckets=LATENCY,
)
QUEUE_SECONDS = Metric(
    "fedkim_queue_seconds",
    "histogram",
    "seconds",
    "From arrival in the engine to the start of the forward pass.",
    buckets=LATENCY,
)
PREFILL_SECONDS = Metric(
    "fedkim_prefill_seconds",
    "histogram",
    "seconds",
    "Forward pass over the prompts of one batch.",
    buckets=LATENCY,
)
TOKEN_SECONDS = Metric(
    "fedkim_token_seconds",
    "histogram",
    "seconds",
    "One decoding step: a token for every row under way.",
    buckets=LATENCY,
)
BATCH_SIZE = Metric(
    "fedkim_batch_size", "histogram", "1", "Rows in one forward pass.", ("stage",), ROWS
)
EXPERT_WEIGHT = Metric(
    "fedkim_expert_weight",
    "histogram",
    "1",
    "Weight alpha of an expert in answered requests.",
    ("task", "expert"),
    SHARES,
)
ROUTING_ENTROPY = Metric(
    "fedkim_routing_entropy_nats",
    "histogram",
    "nats",
    "Entropy of the expert weights of answered requests; ln(experts) where all share alike.",
    ("task",),
    NATS,
)
QUEUE_LENGTH = Metric("fedkim_queue_length", "gauge", "1", "Requests waiting for a batch.")
RUNNING = Metric("fedkim_running_answers", "gauge", "1", "Answers that are being generated.")
TOKENS = Metric("fedkim_tokens_total", "counter", "1", "Tokens generated.")
REJECTIONS = Metric(
    "fedkim_rejections_total",
    "counter",
    "1",
    "Requests refused, or streams broken off, by cause: the error's code.",
    ("cause",),
)
ADAPTER_LOADS = Metric(
    "fedkim_adapter_requests_total",
    "counter",
    "1",
    "Folded adapters asked for, by result: hit or miss of the cache.",
    ("result",),
)
BUNDLE_INFO = Metric(
    "fedkim_bundle_info",
    "gauge",
    "1",
    "1 for each replica, labelled with what it serves.",
    ("model", "bundle_version"),
)

METRICS: dict[str, Metric] = {m.name: m for m in list(globals().values()) if isinstance(m, Metric)}
"""All of the above, by name."""
