"""What the server counts, in Prometheus' format, under vLLM's names where they mean the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0,
    160.0, 320.0,
)  # fmt: skip
_TOKENS = tuple(float(2**power) for power in range(17))
_LENGTHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)


class Metrics:
    """The counters of one server.

    A name is vLLM's with ``twigkit:`` in place of ``vllm:``; every sample has the label
    ``model_name``.
    """

    def __init__(
        self, model_name: str, running: Callable[[], int], waiting: Callable[[], int]
    ) -> None:
        """Start at zero.

        Args:
            model_name: The label.
            running: Returns the answers that are being generated.
            waiting: Returns the answers that wait for a slot.
        """
        self._registry = CollectorRegistry()
        self._label = {"model_name": model_name}
        self._gauge("num_requests_running", "Answers that are being generated.", running)
        self._gauge("num_requests_waiting", "Answers that wait for a slot.", waiting)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens, visual ones included.")
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self._succeeded = self._by(
            "request_success", "Answers that ended, by reason.", "finished_reason"
        )
        self._failed = self._by("request_failure", "Requests refused or failed.", "status")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _SECONDS
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "Between tokens of an answer, in the mean.", _SECONDS
        )
        self.latency = self._histogram(
            "e2e_request_latency_seconds", "From the request to the end of its answers.", _SECONDS
        )
        self.queued = self._histogram("request_queue_time_seconds", "Waiting for a slot.", _SECONDS)
        self.prefill = self._histogram("request_prefill_time_seconds", "Prefill.", _SECONDS)
        self.request_prompt_tokens = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", _TOKENS
        )
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "Tokens of an answer.", _TOKENS
        )
        self.drafts = self._counter("spec_decode_num_drafts", "Steps of answers that drafted.")
        self.draft_tokens = self._counter("spec_decode_num_draft_tokens", "Drafted tokens.")
        self.accepted_tokens = self._counter(
            "spec_decode_num_accepted_tokens", "Drafted tokens that were accepted."
        )
        self._accepted_at = self._by(
            "spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens that were accepted, by place on their path.",
            "position",
        )
        self.accepted_length = self._histogram(
            "accepted_length", "Tokens that a step gained an answer, in its mean.", _LENGTHS
        )
        self.visual_tokens = self._counter("visual_tokens", "Visual tokens of prompts.")
        self.kept_visual_tokens = self._counter(
            "kept_visual_tokens", "Visual tokens per layer after pruning, in the mean."
        )

    def ended(self, reason: str) -> None:
        """Count an answer that ended."""
        self._succeeded.labels(**self._label, finished_reason=reason).inc()

    def failed(self, status: int) -> None:
        """Count a request that was refused or failed."""
        self._failed.labels(**self._label, status=str(status)).inc()

    def gained(self, drafted: int, accepted: int) -> None:
        """Count what a step drafted and accepted for an answer."""
        if not drafted:
            return
        self.drafts.inc()
        self.draft_tokens.inc(drafted)
        self.accepted_tokens.inc(accepted)
        for position in range(accepted):
            self._accepted_at.labels(**self._label, position=str(position)).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, about: str, value: Callable[[], int]) -> None:
        gauge = Gauge(f"twigkit:{name}", about, ["model_name"], registry=self._registry)
        gauge.labels(**self._label).set_function(value)

    def _counter(self, name: str, about: str) -> Counter:
        made = Counter(f"twigkit:{name}", about, ["model_name"], registry=self._registry)
        return made.labels(**self._label)

    def _by(self, name: str, about: str, label: str) -> Counter:
        return Counter(f"twigkit:{name}", about, ["model_name", label], registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(
            f"twigkit:{name}", about, ["model_name"], registry=self._registry, buckets=buckets
        )
        return made.labels(**self._label)


__all__ = ["Metrics"]
