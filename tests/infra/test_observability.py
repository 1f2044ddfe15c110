"""Scraping, alerts, dashboard and runbook: all that they name is there."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import promql_parser
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pipelines.console import MODULES
from pipelines.run.metrics import GAUGES, METRICS
from pipelines.run.progress import Reporter
from workers.base.exit_codes import ExitCode
from workers.embedding.meter import Activity

ROOT = Path(__file__).parents[2]
FOLDER, RUNBOOK = ROOT / "infra/observability", ROOT / "docs/runbook.md"
KUBERNETES = ROOT / "infra/kubernetes"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
SCRAPING = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
JOBS = {job["job_name"]: job for job in SCRAPING["scrape_configs"]}
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

#: What Prometheus adds to every sample, and the rules of alerts to their own.
ADDED = {"instance", "job"}
DURATION = re.compile(r"(\d+[smhdw])+")


@dataclass(frozen=True)
class Query:
    """An expression, where it stands, and the labels that texts beside it name."""

    place: str
    expression: str
    told: frozenset[str]


def queries() -> Iterator[Query]:
    for name, rule in ALERTS.items():
        told = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        yield Query(name, rule["expr"], frozenset(told))
    for panel in PANELS:
        for target in panel["targets"]:
            told = re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])
            yield Query(panel["title"], target["expr"], frozenset(told))


def parsed(expression: str) -> promql_parser.Expr:
    return promql_parser.parse(expression.replace("$run", ".*"))


def nodes(expression: str) -> list[promql_parser.Expr]:
    found: list[promql_parser.Expr] = []
    promql_parser.walk(parsed(expression), found.append)
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    return [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]


def grouping_labels(expression: str) -> set[str]:
    """Those after by and on."""
    labels: set[str] = set()
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels |= set(node.modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
            labels |= set(node.modifier.matching.labels)
    return labels


Values = dict[str, set[str]]


def has_run(found: dict[str, Values]) -> bool:
    """Whether Ray has told of a task that it was at work: it tells of all states later."""
    return "RUNNING" in found["ray_tasks"]["State"]


@pytest.fixture(scope="module")
def ray_metrics(tmp_path_factory) -> dict[str, Values]:
    """What a real Ray offers to Prometheus: by metric, its labels and their values."""
    import ray

    ray.shutdown()
    # pytest's own folders have paths that can be too long for Ray's sockets.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder),
        _system_config={"metrics_report_interval_ms": 500},  # not ten seconds
    )
    wanted = {
        selector.name
        for query in queries()
        for selector in selectors(query.expression)
        if str(selector.name).startswith("ray_")
    }
    try:
        ray.get(ray.remote(lambda: None).remote())
        with Reporter(
            lambda: Activity(1, 0.5, 1.0, 1.0, 1.0, 1.0), tmp_path_factory.mktemp("work"), "one"
        ):
            pass
        (node,) = ray.nodes()
        deadline, found = time.monotonic() + 60, dict[str, Values]()
        while not (wanted <= found.keys() and has_run(found)) and time.monotonic() < deadline:
            time.sleep(0.2)
            found = scraped(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics")
        return found
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def scraped(url: str) -> dict[str, Values]:
    try:
        text = requests.get(url, timeout=5).text
    except requests.ConnectionError:  # the agent starts after Ray
        return {}
    found: dict[str, Values] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def exported(ray_metrics: dict[str, Values]) -> dict[str, set[str]]:
    """The labels of all metrics: of Ray, of our commands, of other exporters."""
    others = yaml.safe_load((Path(__file__).parent / "exporters.yaml").read_text())
    return {
        **{name: set(labels) for name, labels in ray_metrics.items()},
        **{name: {"run", *labels} for name, (_, labels) in GAUGES.items()},
        **{name: set(labels) for one in others for name, labels in one["metrics"].items()},
    }


def test_every_metric_and_label_is_exported(ray_metrics):
    known = exported(ray_metrics)
    for query in queries():
        labels = set(ADDED)
        for selector in selectors(query.expression):
            assert selector.name in known, query
            labels |= known[selector.name]
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= known[selector.name] | ADDED, query
        assert grouping_labels(query.expression) | query.told <= labels, query


def test_the_values_that_are_asked_of_ray_are_there(ray_metrics):
    asked = 0
    for query in queries():
        for selector in selectors(query.expression):
            for matcher in selector.matchers.matchers:
                if selector.name in ray_metrics and matcher.op == promql_parser.MatchOp.Equal:
                    assert matcher.value in ray_metrics[selector.name][matcher.name], query
                    asked += 1
    assert asked


def test_alerts_are_whole():
    assert len(ALERTS) == sum(len(group["rules"]) for group in RULES["groups"])
    assert len({group["name"] for group in RULES["groups"]}) == len(RULES["groups"])
    for name, rule in ALERTS.items():
        assert re.fullmatch(r"Clip[A-Za-z]+", name)
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "runbook"}
        assert DURATION.fullmatch(rule.get("for", "1m"))


def test_every_alert_has_a_test_of_when_it_fires():
    tests = yaml.safe_load((FOLDER / "alerts-test.yaml").read_text())["tests"]
    fires = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fires == set(ALERTS)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_fire_when_they_should():
    command = ["promtool", "test", "rules", "alerts-test.yaml"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_in_the_readme_makes_a_rule_of_the_operator():
    (command,) = re.findall(r"^\(printf.*\)(?= \|)", (FOLDER / "README.md").read_text(), re.M)
    made = yaml.safe_load(subprocess.check_output(["bash", "-c", command], cwd=FOLDER))
    assert (made["kind"], made["spec"]) == ("PrometheusRule", RULES)
    assert made["metadata"]["namespace"] == monitor()["metadata"]["namespace"]


def monitor() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "pod-monitor.yaml").read_text())
    return found


def test_scraping_names_what_is_there():
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert len(JOBS) == len(SCRAPING["scrape_configs"])
    assert SCRAPING.keys() == {"global", "rule_files", "scrape_configs"}
    assert all((FOLDER / name).is_file() for name in SCRAPING["rule_files"])
    assert all(map(DURATION.fullmatch, SCRAPING["global"].values()))
    (files,) = JOBS["ray"]["file_sd_configs"]
    assert files["files"] == [f"{get_default_ray_temp_dir()}/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


def test_the_exporter_is_pointed_at_the_folder_that_commands_write_to():
    for text in ((FOLDER / "prometheus.yaml").read_text(), (FOLDER / "README.md").read_text()):
        (folder,) = re.findall(r"--collector\.textfile\.directory='(.*)'", text)
        assert PurePosixPath("/data/runs/birds", METRICS).parent.match(folder)


DISCOVERED = {
    "ray-pods": {
        "__meta_kubernetes_pod_label_ray_io_is_ray_node": "yes",
        "__meta_kubernetes_pod_container_port_name": "metrics",
    },
    "kubernetes": {
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "kube-state-metrics",
        "__meta_kubernetes_pod_container_port_number": "8080",
    },
}


@pytest.mark.parametrize("job", DISCOVERED)
def test_pods_are_kept_by_what_kubernetes_says_of_them(job):
    (rule,) = [one for one in JOBS[job]["relabel_configs"] if one.get("action") == "keep"]
    assert set(rule["source_labels"]) == set(DISCOVERED[job])
    values = [DISCOVERED[job][name] for name in rule["source_labels"]]
    assert re.fullmatch(rule["regex"], ";".join(values))
    assert not re.fullmatch(rule["regex"], ";".join([*values[:-1], "dashboard"]))


def test_the_operators_monitor_asks_for_the_same_pods():
    spec = monitor()["spec"]
    assert spec["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    (discovery,) = JOBS["ray-pods"]["kubernetes_sd_configs"]
    assert discovery["namespaces"]["names"] == [monitor()["metadata"]["namespace"]]


def test_what_is_asked_of_kubernetes_is_in_its_manifests():
    (namespace,) = set(re.findall(r"kubectl -n (\S+)", RUNBOOK.read_text()))
    asked = set(re.findall(r'(namespace|cronjob)="(\w+)"', (FOLDER / "alerts.yaml").read_text()))
    manifests = {
        made["kind"]: made
        for path in sorted((KUBERNETES / "base").glob("*.yaml"))
        for made in yaml.safe_load_all(path.read_text())
        if "kind" in made
    }
    assert manifests["Kustomization"]["namespace"] == namespace
    cron = manifests["CronJob"]["metadata"]["name"]
    assert asked == {("namespace", namespace), ("cronjob", cron)}
    assert f"--from=cronjob/{cron} " in RUNBOOK.read_text()
    assert monitor()["metadata"]["namespace"] == namespace

    spec = manifests["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    workers = [group["template"]["spec"]["containers"][0] for group in cluster["workerGroupSpecs"]]
    for container in (head, *workers):
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]
    (line,) = (line for line in codes(RUNBOOK.read_text()) if f"-c {head['name']} " in line)
    assert spec["entrypoint"].startswith(shlex.split(line)[-1].removesuffix(" --status"))


def test_the_dashboard_can_be_imported():
    assert DASHBOARD.keys() >= {"title", "uid", "schemaVersion", "panels", "templating", "time"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__all"}
    assert used == set(variables)
    for one in (variables["run"], *PANELS, *(t for panel in PANELS for t in panel["targets"])):
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_do_not_lie_upon_each_other():
    places: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert places.setdefault((x, y), panel["title"]) == panel["title"]


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def sections(level: int, text: str) -> dict[str, str]:
    """The texts below headings of a level."""
    parts = re.split(rf"^{'#' * level} (.*)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_alert_and_every_exit_code_has_its_entry_and_no_other():
    chapters = sections(2, RUNBOOK.read_text())
    assert list(sections(3, chapters["Alerts"])) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{anchor(name)}"
    entries = sections(3, chapters["Exit codes"])
    told = {int(code) for entry in entries for code in re.findall(r"\d+", entry)}
    assert told == {*map(int, ExitCode), 129, 143}


@pytest.mark.parametrize("page", ["docs/runbook.md", "infra/observability/README.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    assert links
    for link in links:
        file, _, place = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert place in map(anchor, headings), link


def codes(text: str) -> list[str]:
    """What a page has in blocks and between backticks, without what is said beside a command."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
    lines = re.findall(r"`([^`\n]+)`", text.replace("```", ""))
    return [line.partition("  #")[0].strip() for line in (*blocks.splitlines(), *lines)]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The project's commands in a page as modules and arguments, those inside others, too."""
    for line in codes(text):
        words = shlex.split(line)
        if "sh -c" in line:
            words = shlex.split(words[-1])
        if words[:2] == ["python", "-m"]:
            yield words[2], words[3:]
        elif words and words[0].startswith("wit-"):
            yield MODULES[words[0]], words[1:]


def test_every_command_of_the_runbook_is_one(monkeypatch):
    asked = set()
    for name, arguments in commands(RUNBOOK.read_text()):
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "run_command", lambda command: ExitCode.COMPLETE)
        assert module.main(arguments) == ExitCode.COMPLETE
        asked |= {name, *(word for word in arguments if word.startswith("--"))}
    assert {"pipelines.takedown", "pipelines.compact", "pipelines.verify"} <= asked
    assert {"--mend", "--status", "--history", "--plan", "--run-dir"} <= asked


def test_every_setting_of_the_runbook_is_one():
    reference = sections(2, (ROOT / "docs/configuration.md").read_text())
    dotted = [
        code for code in codes(RUNBOOK.read_text()) if re.fullmatch(r"[\w.]+\.(?!md)\w+", code)
    ]
    found = [code for code in dotted if f"`{code.split('.')[0]}`" in reference]
    assert len(found) > 4
    for setting in found:
        section, _, key = setting.rpartition(".")
        assert f"| `{key}` |" in reference[f"`{section}`"], setting
