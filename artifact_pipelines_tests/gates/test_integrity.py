"""A model's bytes are what its record says, or the finding names what is damaged."""

from artifact_pipelines.gates.integrity import integrity_finding


def test_whole_bytes_pass() -> None:
    finding = integrity_finding([])

    assert (finding.gate, finding.passed) == ("integrity", True)


def test_damaged_bytes_fail_and_are_named() -> None:
    finding = integrity_finding(["model.safetensors", "config.json"])

    assert not finding.passed
    assert finding.reasons == ("model.safetensors", "config.json")
