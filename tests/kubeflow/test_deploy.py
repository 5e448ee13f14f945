"""`python -m kubeflow.deploy` with a gcloud that keeps what it makes in a file, and the real one's opinion of it."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import vertex_job
from pipelines.settings import Settings, load

PROJECT = Path(__file__).parents[2]
WHERE = ["--project", "my-project", "--region", "europe-west4", "--bucket", "my-bucket", "--pipeline", "hotdog"]
ACTIONS = [["create"], ["create", "--dataflow"], ["destroy", "--delete-data"]]
TAKEN = "another-ones-bucket"

GCLOUD = f"""#!{sys.executable} -IS
import os, sys
arguments = sys.argv[1:]
with open("calls", "a") as calls:
    print(arguments, file=calls)
there = eval(open("state").read()) if os.path.exists("state") else []
shows = eval(open("shown").read()) if os.path.exists("shown") else {{}}
words = [argument for argument in arguments if not argument.startswith("--")]
flags = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
member, role = (
    next((argument for argument in arguments if argument.startswith(flag)), "") for flag in ("--member", "--role")
)

def end(error=""):
    open("state", "w").write(repr(there))
    open("shown", "w").write(repr(shows))
    sys.exit(f"ERROR: (gcloud) {{error}}" if error else 0)

def show():
    "What a description in the format asked for would say from now on."
    labels = flags.get("--labels", flags.get("--update-labels", ""))
    variables = dict(each.split("=", 1) for each in flags.get("--set-env-vars", "=").split(","))
    tries = [flags.get(flag, "") for flag in ("--max-concurrent-dispatches", "--min-backoff")]
    shows[" ".join(thing)] = {{
        "value(labels.retake)": labels.partition("retake=")[2],
        "value(displayName)": flags.get("--display-name", ""),
        "value[separator='/'](rateLimits.maxConcurrentDispatches,retryConfig.minBackoff)": "/".join(tries),
        "value(serviceConfig.environmentVariables.RETAKE_QUEUE)": variables.get("RETAKE_QUEUE", ""),
    }}

if os.path.exists("offline"):
    end("cannot reach the service")
if os.path.exists("unknown-yet") and "add-iam-policy-binding" in words:
    os.remove("unknown-yet")
    end("INVALID_ARGUMENT: Service account retake-runner@my-project.iam.gserviceaccount.com does not exist.")
if words == ["storage", "service-agent"]:
    print("service-1@gs-project-accounts.iam.gserviceaccount.com")
    end()
if words[:2] == ["projects", "describe"]:
    print("123456789012")
    end()
if words[:2] == ["services", "enable"]:
    end()
if words[:2] == ["storage", "rm"]:
    words = ["storage", "buckets", "delete", words[2]]
*group, verb, name = words
name = name.partition("@")[0]
thing = [*group, name]
if name == "gs://{TAKEN}":
    end("HTTPError 403: no access" if verb == "describe" else "HTTPError 409: the name is not available")
if "binding" in verb:
    thing += [member, role]
    if group != ["projects"] and thing[:-2] not in there:
        end(f"NOT_FOUND: {{name}}")
    if verb.startswith("remove") and thing not in there:
        end("Policy binding with the specified member and role not found!")
    verb = "update" if verb.startswith("add") else "delete"
if verb == "create" and thing in there:
    end(f"ALREADY_EXISTS: {{name}} already exists")
if verb == "update" and os.path.exists("no-labels"):
    end("cannot reach the service")
if verb in ("describe", "delete") and thing not in there:
    end(f"NOT_FOUND: {{name}} does not exist")
if "binding" not in " ".join(words) and verb in ("create", "deploy", "update"):
    show()
if verb == "describe":
    print(shows.get(" ".join(thing), {{}}).get(flags.get("--format"), ""))
if verb == "delete":
    there = [each for each in there if each[:len(thing)] != thing]
elif verb != "describe" and thing not in there:
    there.append(thing)
end()
"""


class Cloud:
    """A folder with a gcloud of its own, which knows what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin" / "gcloud").write_text(GCLOUD)
        (folder / "bin" / "gcloud").chmod(0o755)

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kubeflow.deploy", *arguments],
            cwd=self.folder,
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin", "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def calls(self) -> list[list[str]]:
        """What gcloud was asked since the last time."""
        file = self.folder / "calls"
        calls = [ast.literal_eval(line) for line in file.read_text().splitlines()] if file.exists() else []
        file.write_text("")
        return calls

    def there(self) -> list[list[str]]:
        file = self.folder / "state"
        return ast.literal_eval(file.read_text()) if file.exists() else []

    def has(self, *things: list[str]) -> None:
        """Somebody else made these."""
        (self.folder / "state").write_text(repr([*self.there(), *things]))


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def deployed(cloud: Cloud) -> Cloud:
    done = cloud.deploy(*WHERE)
    assert done.returncode == 0, done.stderr
    cloud.calls()
    return cloud


def commands(script: str) -> list[str]:
    """The calls of gcloud in a dry run's script."""
    script = re.sub(
        r"^(?:if )?[a-zA-Z_]+=\$\((gcloud .*?)(?: 2>/dev/null)?\)(; then)?$", r"\1", script, flags=re.MULTILINE
    )
    lines = [re.sub(r" (>/dev/null.*|\|\|)$", "", line.strip()) for line in script.splitlines()]
    return [line for line in lines if line.startswith("gcloud ")]


def flags(call: list[str]) -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in call if argument.startswith("--") and "=" in argument)


def test_a_first_call_makes_everything_and_says_what_comes_next(cloud: Cloud) -> None:
    done = cloud.deploy(*WHERE)
    assert done.stderr == ""
    assert done.returncode == 0
    made = cloud.there()
    for thing in (
        ["storage", "buckets", "gs://my-bucket"],
        ["storage", "buckets", "gs://my-bucket-records"],
        ["artifacts", "repositories", "retake"],
        ["artifacts", "repositories", "retake-function"],
        ["tasks", "queues", "retake"],
        ["functions", "retake"],
        *(["iam", "service-accounts", f"retake-{role}"] for role in ("runner", "function", "trigger", "build")),
    ):
        assert thing in made
    assert "python -m pipelines.run --runner vertex --config hotdog" in done.stdout


def test_a_second_call_creates_nothing(deployed: Cloud) -> None:
    before = deployed.there()
    assert deployed.deploy(*WHERE).returncode == 0
    assert not [call for call in deployed.calls() if "create" in call]
    assert deployed.there() == before


def test_a_call_after_one_that_failed_goes_on(cloud: Cloud) -> None:
    (cloud.folder / "offline").touch()
    failed = cloud.deploy(*WHERE)
    assert failed.returncode == 1
    assert "cannot reach the service" in failed.stderr and "same command again" in failed.stderr
    assert not cloud.there()
    (cloud.folder / "offline").unlink()
    assert cloud.deploy(*WHERE).returncode == 0


def test_the_services_of_dataflow_are_enabled_only_for_it(cloud: Cloud) -> None:
    for option, there in ([], False), (["--dataflow"], True):
        cloud.deploy(*WHERE, *option)
        enabled = cloud.calls()[0]
        assert ({"dataflow.googleapis.com", "compute.googleapis.com"} <= set(enabled)) is there


def test_a_bucket_of_someone_else_stops_it_with_what_gcloud_says(cloud: Cloud) -> None:
    failed = cloud.deploy(*WHERE, "--records", f"{TAKEN}/hotdog")
    assert failed.returncode == 1
    assert "the name is not available" in failed.stderr


def test_without_gcloud_it_says_where_to_get_it(cloud: Cloud) -> None:
    (cloud.folder / "bin" / "gcloud").unlink()
    (cloud.folder / "bin" / "python").symlink_to(sys.executable)
    done = subprocess.run(
        [sys.executable, "-m", "kubeflow.deploy", *WHERE],
        env={"PATH": f"{cloud.folder}/bin", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "no gcloud" in done.stderr and "install" in done.stderr


def test_destroy_takes_all_away_but_the_data(deployed: Cloud) -> None:
    assert deployed.deploy("destroy", *WHERE).returncode == 0
    kept = [thing for thing in deployed.there() if thing[-1].startswith("--role") is False]
    assert kept == [
        ["storage", "buckets", "gs://my-bucket"],
        ["storage", "buckets", "gs://my-bucket-records"],
        ["iam", "roles", "retake_submitter"],
    ]
    bound = [thing for thing in deployed.there() if thing not in kept]
    assert [thing[-1] for thing in bound] == ["--role=roles/pubsub.publisher"]
    assert deployed.deploy("destroy", *WHERE).returncode == 0
    assert deployed.deploy(*WHERE).returncode == 0


def test_destroy_takes_the_rights_for_dataflow_away_without_being_told_of_them(cloud: Cloud) -> None:
    assert cloud.deploy(*WHERE, "--dataflow").returncode == 0
    assert "roles/dataflow.worker" in json.dumps(cloud.there())
    assert cloud.deploy("destroy", *WHERE).returncode == 0
    assert "retake-runner" not in json.dumps(cloud.there())


def test_destroy_takes_the_data_away_when_told_so(deployed: Cloud) -> None:
    assert deployed.deploy("destroy", "--delete-data", *WHERE).returncode == 0
    assert not [thing for thing in deployed.there() if thing[0] == "storage"]


OURS = [
    ["storage", "buckets", "gs://my-bucket"],
    ["storage", "buckets", "gs://my-bucket-records"],
    ["artifacts", "repositories", "retake"],
    ["artifacts", "repositories", "retake-function"],
    *(["iam", "service-accounts", f"retake-{role}"] for role in ("runner", "function", "trigger", "build")),
    ["tasks", "queues", "retake"],
]


@pytest.mark.parametrize("found", [OURS[::2], OURS[1::2]], ids=["some", "the others"])
def test_destroy_leaves_what_was_there_before_and_says_so(cloud: Cloud, found: list[list[str]]) -> None:
    cloud.has(*found)
    for _ in range(2):  # Another call must not take for its own what the first one found.
        assert cloud.deploy(*WHERE).returncode == 0
    changed = {(*call[:2], call[3]) for call in cloud.calls() if call[2] in ("create", "update")}
    assert not changed & set(map(tuple, found))
    done = cloud.deploy("destroy", "--delete-data", *WHERE)
    assert done.returncode == 0
    assert [thing for thing in cloud.there() if thing in OURS] == found
    assert done.stdout.count("left as it is") == len(found)
    for *_, name in found:
        assert re.search(rf"{name.removeprefix('gs://')}\b.*: left as it is", done.stdout)
        assert re.search(rf"^  gcloud .* (delete|rm) {name}\b", done.stdout, re.MULTILINE)


def test_a_function_of_someone_else_is_not_replaced(cloud: Cloud) -> None:
    cloud.has(["functions", "retake"])
    done = cloud.deploy(*WHERE)
    assert done.returncode == 1
    assert "function retake" in done.stderr and "--name" in done.stderr
    assert cloud.there() == [["functions", "retake"]]
    assert cloud.deploy("destroy", *WHERE).returncode == 0
    assert cloud.there() == [["functions", "retake"]]


def test_a_bucket_that_two_deployments_use_outlives_both(cloud: Cloud) -> None:
    other = [*WHERE, "--name", "other", "--records", "other-records/hotdog"]
    assert cloud.deploy(*WHERE).returncode == 0
    assert "used by retake_my-project_europe-west4, too" in cloud.deploy(*other).stdout
    for options in (other, WHERE):
        assert cloud.deploy(*options).returncode == 0
        done = cloud.deploy("destroy", "--delete-data", *options)
        assert "bucket gs://my-bucket: left as it is" in done.stdout
    assert [thing for thing in cloud.there() if thing in OURS or thing[-1] == "gs://other-records"] == OURS[:1]


def test_a_bucket_whose_mark_never_came_is_left(cloud: Cloud) -> None:
    (cloud.folder / "no-labels").touch()
    assert cloud.deploy(*WHERE).returncode == 1
    (cloud.folder / "no-labels").unlink()
    assert cloud.deploy(*WHERE).returncode == 0
    assert cloud.deploy("destroy", "--delete-data", *WHERE).returncode == 0
    assert [thing for thing in cloud.there() if thing in OURS] == OURS[:1]


def test_destroy_does_not_take_an_error_for_nothing_there(deployed: Cloud) -> None:
    (deployed.folder / "offline").touch()
    assert deployed.deploy("destroy", *WHERE).returncode == 1


def test_a_grant_to_an_account_that_google_does_not_know_yet_is_tried_again(cloud: Cloud) -> None:
    (cloud.folder / "unknown-yet").touch()
    assert cloud.deploy(*WHERE).returncode == 0
    first, second, *_ = [call for call in cloud.calls() if "add-iam-policy-binding" in call]
    assert first == second and not (cloud.folder / "unknown-yet").exists()


def test_a_dry_run_says_what_each_command_is_for(cloud: Cloud) -> None:
    lines = cloud.deploy(*WHERE, "--dry-run").stdout.splitlines()
    assert "# function retake, which takes about three minutes" in lines
    assert any(line.startswith("# retake-runner@") and ": " in line for line in lines)


@pytest.mark.parametrize(
    "action, found",
    [*((action, []) for action in ACTIONS), (ACTIONS[0], OURS[1:3]), (ACTIONS[-1], OURS[1:3])],
    ids=[*map(" ".join, ACTIONS), "create beside others", "destroy beside others"],
)
def test_a_dry_run_calls_nothing_and_prints_a_script_that_does_the_same(
    cloud: Cloud, action: list[str], found: list[list[str]], tmp_path_factory: Any
) -> None:
    other = Cloud(tmp_path_factory.mktemp("other"))
    for each in (cloud, other):
        each.has(*found)
        if found:  # Its bucket is to be shared, its records and its registry were there before.
            assert each.deploy(*WHERE, "--name", "others", "--records", "other-records/hotdog").returncode == 0
        if "destroy" in action:
            assert each.deploy(*WHERE, "--dataflow").returncode == 0
        each.calls()
    before = cloud.there()
    dry = cloud.deploy(*action, *WHERE, "--dry-run")
    assert dry.returncode == 0
    assert (cloud.calls(), cloud.there()) == ([], before)
    environment = {"PATH": f"{cloud.folder}/bin:/usr/bin:/bin"}
    for _ in range(2):  # The script can be repeated, too.
        ran = subprocess.run(
            ["sh"], input=dry.stdout, cwd=cloud.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
    assert other.deploy(*action, *WHERE).returncode == 0
    assert cloud.there() == other.there()
    assert (cloud.folder / "shown").read_text() == (other.folder / "shown").read_text()


def test_the_script_stops_at_a_function_of_someone_else(cloud: Cloud) -> None:
    cloud.has(["functions", "retake"])
    script = cloud.deploy(*WHERE, "--dry-run").stdout
    environment = {"PATH": f"{cloud.folder}/bin:/usr/bin:/bin"}
    ran = subprocess.run(["sh"], input=script, cwd=cloud.folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "give another --name" in ran.stderr
    assert cloud.there() == [["functions", "retake"]]


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--project", "my project"),
        ("--project", "p; touch pwned"),
        ("--project", "x"),
        ("--region", "europe west4"),
        ("--region", "$(touch pwned)1"),
        ("--bucket", "a bucket"),
        ("--bucket", "gs://my-bucket"),
        ("--bucket", "b;touch pwned"),
        ("--pipeline", "hot dog"),
        ("--pipeline", "../../x"),
        ("--pipeline", "my_birds"),
        ("--root", "/folder"),
        ("--root", "gs://another-bucket/runs"),
        ("--root", "runs/../../x"),
        ("--root", "runs,RETAKE_MODELS=b"),
        ("--records", "my-records"),
        ("--records", "my-records/a,RETAKE_MODELS=b"),
        ("--records", "my-records/`touch pwned`"),
        ("--name", "a; touch pwned; b"),
        ("--name", "--help"),
        ("--window", "0"),
        ("--window", "10; touch pwned"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_called(cloud: Cloud, flag: str, value: str) -> None:
    done = cloud.deploy(*WHERE, f"{flag}={value}")
    assert done.returncode == 2
    assert flag in done.stderr
    assert not cloud.calls()
    assert not (cloud.folder / "pwned").exists()


@pytest.mark.parametrize("dataflow", [[], ["--dataflow"]], ids=["vertex", "dataflow"])
def test_every_account_has_the_roles_it_needs_and_no_role_that_rules_the_project(
    cloud: Cloud, dataflow: list[str]
) -> None:
    cloud.deploy(*WHERE, *dataflow)
    roles: dict[str, set[tuple[str, str]]] = {}
    for call in cloud.calls():
        if "--member" in " ".join(call):
            member = flags(call)["--member"].removeprefix("serviceAccount:").partition("@")[0]
            role = flags(call).get("--role", "roles/run.invoker").rpartition("/")[2]
            roles.setdefault(member, set()).add((role, call[3 if call[0] in ("storage", "iam") else -1]))
    names = {member: {role for role, _ in granted} for member, granted in roles.items()}
    assert names == {
        "retake-runner": {
            "aiplatform.user",
            "storage.objectUser",
            "storage.objectViewer",
            "storage.legacyBucketReader",
            "artifactregistry.reader",
            *(("dataflow.developer", "dataflow.worker", "iam.serviceAccountUser") if dataflow else ()),
        },
        "retake-function": {
            "retake_submitter",
            "storage.objectViewer",
            "cloudtasks.enqueuer",
            "iam.serviceAccountUser",
        },
        "retake-trigger": {"eventarc.eventReceiver", "run.invoker"},
        "retake-build": {"logging.logWriter", "artifactregistry.writer", "storage.objectViewer"},
        "service-1": {"pubsub.publisher"},
    }
    assert ("storage.objectViewer", "gs://my-bucket-records") in roles["retake-runner"]
    assert ("storage.objectUser", "gs://my-bucket-records") not in roles["retake-runner"]
    acts_as = {on for role, on in roles["retake-runner"] if role == "iam.serviceAccountUser"}
    assert acts_as <= {"retake-runner@my-project.iam.gserviceaccount.com"}


def test_the_function_starts_with_what_it_is_deployed_with(cloud: Cloud) -> None:
    cloud.deploy(*WHERE, "--records", "my-records/deep/er/", "--window", "30")
    [call] = [call for call in cloud.calls() if call[:2] == ["functions", "deploy"]]
    variables = dict(each.split("=", 1) for each in flags(call)["--set-env-vars"].split(","))
    assert variables["RETAKE_BUCKET"] == "my-records"
    assert variables["RETAKE_PREFIX"] == "deep/er"
    assert variables["RETAKE_JOB"] == "gs://my-bucket/runs/hotdog/pipeline.json"
    assert variables["RETAKE_WINDOW_MINUTES"] == "30"
    assert variables["RETAKE_URL"] == "https://retake-123456789012.europe-west4.run.app"
    started = subprocess.run(
        [PROJECT / ".function" / "venv" / "bin" / "python", "-c", "import main; print(main.SETTINGS)"],
        cwd=flags(call)["--source"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert started.returncode == 0, started.stdout
    assert "retake-runner@my-project.iam.gserviceaccount.com" in started.stdout


def test_nobody_outside_the_project_reaches_the_function(cloud: Cloud) -> None:
    cloud.deploy(*WHERE)
    [call] = [call for call in cloud.calls() if call[:2] == ["functions", "deploy"]]
    assert "--no-allow-unauthenticated" in call
    assert flags(call)["--ingress-settings"] == "internal-only"


def test_tags_of_the_pipelines_images_never_move_and_those_of_the_functions_builds_may(cloud: Cloud) -> None:
    cloud.deploy(*WHERE)
    calls = cloud.calls()
    made = {
        call[3]: "--immutable-tags" in call for call in calls if call[:3] == ["artifacts", "repositories", "create"]
    }
    assert made == {"retake": True, "retake-function": False}
    [call] = [call for call in calls if call[:2] == ["functions", "deploy"]]
    assert flags(call)["--docker-repository"].endswith("/repositories/retake-function")
    bound = [call for call in calls if call[2:4] == ["add-iam-policy-binding", "retake-function"]]
    assert [flags(call)["--role"] for call in bound if call[0] == "artifacts"] == ["roles/artifactregistry.writer"]


def placed(**sections: Any) -> Settings:
    """A pipeline's configuration on Vertex AI, with what `deploy` made for it."""
    service = {"project": "my-project", "region": "europe-west4", "bucket": "my-bucket", "image": "registry/retake:1"}
    service["service_account"] = "retake-runner@my-project.iam.gserviceaccount.com"
    given = load("hotdog").model_dump() | sections
    return vertex_job.placed(Settings(**{**given, "vertex": {**given["vertex"], **service}}))


def readme(section: str) -> Any:
    """The piece of a configuration that the README shows."""
    [text] = re.findall(rf"```yaml\n({section}:.*?)```", (PROJECT / "kubeflow" / "README.md").read_text(), re.DOTALL)
    return yaml.safe_load(text)


@pytest.mark.parametrize("root", [None, "runs/{name}-2", "deep/er/", "gs://my-bucket/trial"])
def test_the_function_reads_the_job_where_the_runner_puts_it(cloud: Cloud, root: str | None) -> None:
    done = cloud.deploy(*WHERE, *(["--root", root] if root else []))
    assert done.returncode == 0, done.stderr
    [call] = [call for call in cloud.calls() if call[:2] == ["functions", "deploy"]]
    variables = dict(each.split("=", 1) for each in flags(call)["--set-env-vars"].split(","))
    sections = {"pipeline": {"name": "hotdog", **({"root": root} if root else {})}}
    assert variables["RETAKE_JOB"] == f"{placed(**sections).pipeline.root.rstrip('/')}/{vertex_job.SPECIFICATION}"
    [told] = re.findall(r"--root (\S+)", done.stdout)
    assert variables["RETAKE_JOB"] == f"{told}/{vertex_job.SPECIFICATION}"


def test_the_gpu_of_the_readme_is_a_setting() -> None:
    assert placed(**readme("vertex")).vertex.machines["Trainer"].accelerators == 1


def test_what_the_readme_says_of_dataflow_becomes_a_job_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.runners.dataflow.internal import apiclient

    from pipelines import factory

    # Asks the bucket of something that would only be warned of.
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
    arguments = placed(**readme("beam")).beam.arguments
    pipeline = beam.Pipeline(argv=[*factory.NO_PACKAGE, *arguments, "--dry_run=true"])
    pipeline | beam.Create(["taco"])
    job = pipeline.run().job  # Raises when Beam finds a setting missing or wrong.
    made = apiclient.Environment([], pipeline.options, "9", "", pipeline.runner.proto_pipeline).proto
    assert (job.google_cloud_options.project, job.google_cloud_options.region) == ("my-project", "europe-west4")
    assert job.google_cloud_options.staging_location.startswith("gs://my-bucket/runs/hotdog/tmp/")
    new = hasattr(made, "service_account_email")  # The Beam of TFX 1.21 names fields as Python does.
    account, pools, harnesses, image = (
        ("service_account_email", "worker_pools", "sdk_harness_container_images", "container_image")
        if new
        else ("serviceAccountEmail", "workerPools", "sdkHarnessContainerImages", "containerImage")
    )
    assert getattr(made, account) == "retake-runner@my-project.iam.gserviceaccount.com"
    images = {getattr(each, image) for pool in getattr(made, pools) for each in getattr(pool, harnesses)}
    assert images == {"registry/retake:1-dataflow"}


@pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud on this machine to ask")
def test_the_real_gcloud_knows_every_command_and_flag(cloud: Cloud, tmp_path: Path) -> None:
    scripts = [commands(cloud.deploy(*action, *WHERE, "--dry-run").stdout) for action in ACTIONS]
    assert all(len(script) > 20 for script in scripts)
    documented = re.sub(r"\\\n +", "", (PROJECT / "kubeflow" / "README.md").read_text()).replace("=P ", "=my-project ")
    scripts.append(re.findall(r"^gcloud .+", documented, re.MULTILINE))
    known = dict.fromkeys(shlex.join(shlex.split(command, comments=True)) for script in scripts for command in script)
    asked = [{"command_string": command} for command in known]
    (tmp_path / "commands.json").write_text(json.dumps(asked))
    linted = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path}/commands.json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    answers = json.loads(linted.stdout)
    assert len(answers) == len({each["command_string"] for each in asked})
    assert [answer["error_message"] for answer in answers if not answer["success"]] == []
