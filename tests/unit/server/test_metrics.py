"""Counts in Prometheus' format."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from twigkit.server.metrics import Metrics


def test_what_is_counted_can_be_read():
    metrics = Metrics('a "name"', lambda: 3, lambda: 1)
    metrics.gained(drafted=4, accepted=2)
    metrics.gained(drafted=0, accepted=0)
    metrics.ended("stop")
    metrics.failed(429)
    metrics.accepted_length.observe(2.5)
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            assert sample.labels.pop("model_name") == 'a "name"'
            found[sample.name, *sample.labels.values()] = sample.value
    assert found["twigkit:num_requests_running",] == 3
    assert found["twigkit:num_requests_waiting",] == 1
    assert found["twigkit:spec_decode_num_drafts_total",] == 1
    assert found["twigkit:spec_decode_num_draft_tokens_total",] == 4
    assert found["twigkit:spec_decode_num_accepted_tokens_total",] == 2
    assert found["twigkit:spec_decode_num_accepted_tokens_per_pos_total", "1"] == 1
    assert ("twigkit:spec_decode_num_accepted_tokens_per_pos_total", "2") not in found
    assert found["twigkit:request_success_total", "stop"] == 1
    assert found["twigkit:request_failure_total", "429"] == 1
    assert found["twigkit:accepted_length_bucket", "2.5"] == 1
    assert found["twigkit:accepted_length_bucket", "2.0"] == 0
