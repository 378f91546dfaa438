"""Doctor sees what around a registry would break it."""

import secrets
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.examining import clocks, examine, lifecycle
from artifact_pipelines_tests.servers import SeaweedFS


def test_a_sound_installation_has_nothing_to_say(registry: Registry) -> None:
    assert {state for _, state, _ in examine(registry)} == {"ok"}


@pytest.mark.parametrize(
    "skew, s3, state",
    [(0.5, True, "ok"), (-120.0, True, "warn"), (5_000.0, False, "warn"), (-5_000.0, True, "fail")],
)
def test_a_clock_that_is_off_is_said(skew: float, s3: bool, state: str) -> None:
    name, found, said = clocks(skew, s3=s3)

    assert (name, found) == ("clocks", state)
    assert f"{abs(skew):.0f}" in said or state == "ok"


@pytest.mark.parametrize(
    "rule, broken",
    [
        ({"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}, True),
        ({"Status": "Enabled", "Prefix": "team/store/packs", "Expiration": {"Days": 30}}, True),
        ({"Status": "Disabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}, False),
        ({"Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 1}}, False),
        (
            {
                "Status": "Enabled",
                "Filter": {"Prefix": "team/"},
                "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}],
            },
            True,
        ),
        (
            {
                "Status": "Enabled",
                "Filter": {},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
            },
            False,
        ),
    ],
)
def test_a_lifecycle_rule_that_would_break_the_store_is_seen(
    rule: dict[str, object], broken: bool
) -> None:
    assert bool(lifecycle([rule], "team/store")) is broken


@pytest.mark.deep
def test_a_real_bucket_is_looked_at(seaweedfs: SeaweedFS, s3_url: str, tmp_path: Path) -> None:
    client, bucket = seaweedfs.client(), f"examined-{secrets.token_hex(4)}"
    seaweedfs.make_bucket(bucket)
    assert s3_url
    with open_registry(tmp_path / "home", store_url=f"s3://{bucket}/store") as registry:
        before = {name: state for name, state, _ in examine(registry)}
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": "tidy",
                        "Status": "Enabled",
                        "Filter": {"Prefix": "store/"},
                        "Expiration": {"Days": 30},
                    }
                ]
            },
        )
        after = {name: state for name, state, _ in examine(registry)}

    assert before["bucket"] == "ok"
    assert after["bucket versions"] == "warn"
    assert after["bucket lifecycle"] == "fail"
