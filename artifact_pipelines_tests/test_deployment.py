"""What is under deploy/ is what Dagster, Kubernetes and this package really accept."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from dagster_k8s.container_context import K8sContainerContext

from artifact_pipelines import fanning
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.measuring import PREFIX, figures
from artifact_pipelines.resources import PodTrainer
from artifact_pipelines.settings import Settings
from artifact_pipelines_tests.databases import Forwarded, Postgres
from artifact_pipelines_tests.servers import SeaweedFS, environment

ROOT = Path(__file__).parent.parent
PRODUCTION = ROOT / "deploy" / "production"
KUBERNETES = PRODUCTION / "kubernetes"
CLUSTER = "1.33"
NO_MANIFESTS = {"dagster.yaml", "workspace.yaml", "kustomization.yaml"}
SECRETS = {"dagster-postgres", "catalog", "object-store"}


def read(file: Path) -> Any:  # noqa: ANN401 - whatever YAML holds
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def manifests() -> list[dict[str, Any]]:
    return [
        document
        for file in sorted(KUBERNETES.glob("*.yaml"))
        if file.name not in NO_MANIFESTS
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]


def deployments() -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == "Deployment"}


def container(deployment: Mapping[str, Any]) -> dict[str, Any]:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.fixture
def database(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database for Dagster, reached over TCP as in production."""
    with Forwarded(postgres) as (host, port):
        name = str(postgres.database()).partition("?")[0].rpartition("/")[2]
        for variable, text in {
            "DAGSTER_POSTGRES_HOST": host,
            "DAGSTER_POSTGRES_PORT": str(port),
            "DAGSTER_POSTGRES_USER": "postgres",
            "DAGSTER_POSTGRES_PASSWORD": "not asked for",
            "DAGSTER_POSTGRES_DB": name,
            "DAGSTER_LOG_BUCKET": "logs",
        }.items():
            monkeypatch.setenv(variable, text)
        yield name


def test_the_production_instance_is_accepted_and_works(database: str, tmp_path: Path) -> None:
    shutil.copy(PRODUCTION / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("digits_runs", [database])

        assert instance.get_dynamic_partitions("digits_runs") == [database]
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        assert type(instance.compute_log_manager).__name__ == "S3ComputeLogManager"
        assert type(instance.run_launcher).__name__ == "DefaultRunLauncher"
        assert not instance.telemetry_enabled
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False


@dg.op
def speak() -> None:
    sys.stdout.write("said on standard output\n")
    sys.stdout.flush()


def test_what_a_step_says_is_in_the_bucket_when_it_ends(
    database: str, seaweedfs: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"logs-{database}"
    monkeypatch.setenv("DAGSTER_LOG_BUCKET", bucket)
    shutil.copy(PRODUCTION / "dagster.yaml", tmp_path)
    with environment(seaweedfs.environ):
        seaweedfs.make_bucket(bucket)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            graph = dg.GraphDefinition(name="speaking", node_defs=[speak])
            result = graph.to_job().execute_in_process(instance=instance)
            client = seaweedfs.client()
            listed = client.list_objects_v2(Bucket=bucket, Prefix="compute-logs/")["Contents"]
            said = {
                found["Key"]: client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
                for found in listed
            }
            (key,) = [key for key in said if key.endswith(".out")]

            assert result.success
            assert result.run_id in key
            assert b"said on standard output" in said[key]


def test_nobody_looks_for_a_run_by_the_number_of_its_process_on_another_machine() -> None:
    plain = read(PRODUCTION / "dagster.yaml")

    assert plain["run_launcher"]["class"] == "DefaultRunLauncher"
    assert plain["run_monitoring"]["poll_interval_seconds"] >= 30


def test_on_kubernetes_runs_are_jobs(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(KUBERNETES / "dagster.yaml")
    # Outside of a cluster its address has to come from a file.
    config["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(tmp_path / "kubeconfig"),
    }
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert database
        assert type(instance.run_launcher).__name__ == "K8sRunLauncher"


def test_kubernetes_differs_in_its_launcher_alone() -> None:
    plain, cluster = read(PRODUCTION / "dagster.yaml"), read(KUBERNETES / "dagster.yaml")

    del plain["run_launcher"], cluster["run_launcher"]
    assert plain == cluster
    assert read(PRODUCTION / "workspace.yaml") == read(KUBERNETES / "workspace.yaml")


@pytest.mark.parametrize(
    "manifest", manifests(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)
def test_kubernetes_accepts_each_manifest(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, CLUSTER, strict=True)


def test_the_schema_is_really_looked_at() -> None:
    broken = next(one for one in manifests() if one["kind"] == "Deployment")
    broken["spec"]["replicaz"] = 2

    with pytest.raises(kubernetes_validate.ValidationError, match="replicaz"):
        kubernetes_validate.validate(broken, CLUSTER, strict=True)


def test_the_folder_lists_every_manifest() -> None:
    listed = read(KUBERNETES / "kustomization.yaml")
    carried = {name for one in listed["configMapGenerator"] for name in one.get("files", ())}

    files = {file.name for file in KUBERNETES.glob("*.yaml")}
    assert set(listed["resources"]) == files - NO_MANIFESTS - carried
    assert carried <= files


def test_a_training_is_a_pod_that_the_settings_name() -> None:
    listed = read(KUBERNETES / "kustomization.yaml")
    (settings,) = [one for one in listed["configMapGenerator"] if one["name"] == "settings"]
    named = Settings.from_environment(dict(text.split("=", 1) for text in settings["literals"]))
    launched = read(KUBERNETES / "dagster.yaml")["run_launcher"]["config"]
    places = {mount["name"]: mount["mount_path"] for mount in launched["volume_mounts"]}
    assert named.training_pod is not None
    template = KUBERNETES / named.training_pod.name
    pod = PodTrainer(template=str(template)).pod()
    (main,) = pod["spec"]["containers"]

    assert str(named.training_pod.parent) == places["training"]
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, CLUSTER, strict=True)
    assert main["command"] == ["python", "-m", "artifact_pipelines.sdk"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["namespace"] == listed["namespace"]
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {
        mount["name"] for mount in main["volumeMounts"]
    }


def test_a_run_may_start_the_pods_that_train_and_a_training_nothing() -> None:
    named = {(one["kind"], one["metadata"]["name"]): one for one in manifests()}
    (pods, _) = named["Role", "runs"]["rules"]

    assert {"create", "delete", "get", "list"} <= set(pods["verbs"])
    assert named["RoleBinding", "runs"]["subjects"] == [{"kind": "ServiceAccount", "name": "runs"}]
    assert named["ServiceAccount", "training"]["automountServiceAccountToken"] is False
    template = named["PodTemplate", "training"]["template"]["spec"]
    assert template["serviceAccountName"] == "training"


@pytest.mark.parametrize("name", deployments())
def test_each_service_is_watched_bounded_and_unprivileged(name: str) -> None:
    found = deployments()[name]
    pod, main = found["spec"]["template"]["spec"], container(found)

    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(main)
    assert main["resources"]["limits"]["memory"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert main["securityContext"]["allowPrivilegeEscalation"] is False
    assert main["securityContext"]["readOnlyRootFilesystem"]
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in main["volumeMounts"]
    }


def test_secrets_are_named_and_never_written_down() -> None:
    text = "".join(file.read_text() for file in PRODUCTION.rglob("*") if file.is_file())
    asked = {
        source["secretRef"]["name"]
        for found in deployments().values()
        for source in container(found)["envFrom"]
        if "secretRef" in source
    }

    assert asked == SECRETS
    assert set(read(KUBERNETES / "dagster.yaml")["run_launcher"]["config"]["env_secrets"]) == asked
    assert not re.search(r"(PASSWORD|SECRET_ACCESS_KEY)=[^\s]", text)


def test_compose_and_kubernetes_run_the_same_commands() -> None:
    services = read(PRODUCTION / "compose.yaml")["services"]
    services.pop("postgres")

    assert set(services) == set(deployments())
    for name, found in deployments().items():
        here = [word.rpartition("/")[2] for word in container(found)["args"]]
        assert here == [str(word) for word in services[name]["command"]], name
        assert services[name]["healthcheck"]["test"]


def test_one_daemon_is_stopped_before_the_next_starts() -> None:
    found = deployments()["daemon"]["spec"]

    assert found["replicas"] == 1
    assert found["strategy"] == {"type": "Recreate"}


def test_auditors_get_a_server_that_refuses_changes() -> None:
    assert "--read-only" in container(deployments()["webserver-read-only"])["args"]
    assert "--read-only" not in container(deployments()["webserver"])["args"]


def test_every_location_of_the_workspace_has_a_server() -> None:
    hosts = {
        entry["grpc_server"]["host"] for entry in read(KUBERNETES / "workspace.yaml")["load_from"]
    }
    served = {one["metadata"]["name"] for one in manifests() if one["kind"] == "Service"}

    assert hosts <= served
    assert hosts <= set(read(PRODUCTION / "compose.yaml")["services"])


def test_the_variables_that_are_asked_for_are_in_the_example() -> None:
    asked = set(re.findall(r"\{env: (\w+)\}", (PRODUCTION / "dagster.yaml").read_text()))
    compose = read(PRODUCTION / "compose.yaml")["x-image"]["environment"]
    example = (PRODUCTION / "secrets.env.example").read_text()
    given = set(compose) | set(re.findall(r"^(\w+)=", example, re.MULTILINE))

    assert asked <= given
    assert {"ARTIFACT_PIPELINES_CATALOG_URL", "ARTIFACT_PIPELINES_STORE_URL"} <= given


KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
users: [{name: test, user: {}}]
"""


def test_workers_and_executor_are_told_the_same_of_celery() -> None:
    config = read(PRODUCTION / "celery.yaml")["execution"]["config"]
    place = {"env": fanning.BROKER}

    assert config == {"broker": place, "backend": place, "config_source": fanning.CELERY}


def test_compose_with_celery_adds_workers_that_are_told_what_services_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, added = read(PRODUCTION / "compose.yaml"), read(PRODUCTION / "compose.celery.yaml")
    services, worker = added["services"], added["services"]["worker"]
    for name, text in services["code-platform"]["environment"].items():
        monkeypatch.setenv(name, text)

    pytest.importorskip("dagster_celery")
    assert set(services) - set(plain["services"]) == {"broker", "worker"}
    assert worker["environment"].items() >= plain["x-image"]["environment"].items()
    assert worker["environment"].items() >= services["code-platform"]["environment"].items()
    assert worker["volumes"] == plain["x-image"]["volumes"]
    assert fanning.executor().name == "celery"
    named = Path(worker["command"][-1])
    assert f"deploy/production/{named.name}" in (PRODUCTION / "Dockerfile").read_text()
    assert all(services[name]["healthcheck"]["test"] for name in ("broker", "worker"))


def built(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what would be applied to a cluster, as kubectl itself makes it."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl on the path")
    made = subprocess.run(
        [program, "kustomize", str(folder)], check=True, capture_output=True, text=True
    )
    found = [one for one in yaml.safe_load_all(made.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def test_kubectl_builds_the_cluster() -> None:
    found = built(KUBERNETES)

    for one in found.values():
        kubernetes_validate.validate(one, CLUSTER, strict=True)
    assert {name for kind, name in found if kind == "Deployment"} == set(deployments())
    settings = found["ConfigMap", "settings"]["data"]
    assert settings["ARTIFACT_PIPELINES_STORE_URL"].startswith("s3://")
    assert yaml.safe_load(found["ConfigMap", "dagster"]["data"]["dagster.yaml"]) == read(
        KUBERNETES / "dagster.yaml"
    )


def test_a_cluster_that_spreads_shards_differs_in_the_platform_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, spread = built(KUBERNETES), built(PRODUCTION / "kubernetes-spread")
    changed = [name for name in spread if spread[name] != plain.get(name)]
    platform = spread["Deployment", "code-platform"]
    kubernetes_validate.validate(platform, CLUSTER, strict=True)
    given = {one["name"]: one["value"] for one in container(platform)["env"]}
    context = json.loads(given["DAGSTER_CONTAINER_CONTEXT"])
    accepted = K8sContainerContext.create_from_config(context)
    monkeypatch.setenv("ARTIFACT_PIPELINES_EXECUTOR", given["ARTIFACT_PIPELINES_EXECUTOR"])

    assert plain.keys() == spread.keys()
    assert changed == [("Deployment", "code-platform")]
    assert fanning.executor().name == "k8s"
    # Runs and their steps are told so too, and may start the jobs of their steps.
    assert accepted.run_k8s_config.pod_spec_config["service_account_name"] == "launcher"
    (told,) = accepted.run_k8s_config.container_config["env"]
    assert (told["name"], told["value"]) == ("ARTIFACT_PIPELINES_EXECUTOR", "kubernetes")
    allowed = spread["Role", "launcher"]["rules"]
    assert any("jobs" in rule["resources"] and "create" in rule["verbs"] for rule in allowed)


def test_alerts_are_over_figures_that_exist(tmp_path: Path) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        registry.mark_reported("instance", "events", 0)
        known = {f"{PREFIX}{figure.name}" for figure in figures(registry)}
    known |= {f"{PREFIX}work_seconds_count", "up"}
    (group,) = read(PRODUCTION / "alerts.yaml")["groups"]
    for rule in group["rules"]:
        asked = set(re.findall(r"artifact_pipelines_\w+|\bup\b", rule["expr"]))

        assert asked, rule["alert"]
        assert asked <= known
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_what_pages_somebody_is_in_the_runbook() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    (group,) = read(PRODUCTION / "alerts.yaml")["groups"]
    named = {rule["alert"] for rule in group["rules"] if rule["labels"]["severity"] == "page"}
    tests = {file.stem for file in (ROOT / "artifact_pipelines_tests").rglob("test_*.py")}

    assert named - {"RegistryUnreachable", "StoreErrors"} <= set(re.findall(r"`(\w+)`", page))
    assert set(re.findall(r"`(test_\w+)`", page)) <= tests
