"""Who is speaking: a name a person recognises, and nothing secret."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
from flx_otel_configurators.resource import _container, build_resource, hand_down_name, program_name


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python /srv/orders/app.py", "orders"),
        ("python /srv/orders/ingest.py --fast", "ingest"),
        ("python -u -X dev -W error /srv/orders/ingest.py", "ingest"),
        ("python -m shop.worker", "shop.worker"),
        ("python -m shop.main", "shop"),
        ("python -m uvicorn shop.main:app --port 1", "shop"),
        ("python /venv/bin/uvicorn shop.api:create() --factory", "shop"),
        ("python /venv/bin/gunicorn -w 4 billing.wsgi:application", "billing"),
        ("python /venv/bin/meltano run tap-a target-b", "meltano"),
        ("python /venv/bin/celery worker", "celery"),
        ("python -c print(1)", "python"),
        ("python", "python"),
    ],
)
def test_the_program_is_recognised(command: str, name: str) -> None:
    found = program_name({}, command.split())
    assert found == name or (name == "python" and found.startswith("python"))


def test_an_app_that_everyone_has_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "invoices"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert program_name({}, ["python", "/venv/bin/uvicorn", "app:app"]) == "invoices"
    assert program_name({}, ["python", "app.py"]) == "invoices"


def test_a_multiprocessing_child_has_the_name_of_the_program_that_started_it() -> None:
    spawned = ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main()", "--multiprocessing-fork"]
    assert program_name({"FLX_OTEL_PROGRAM": "orders"}, spawned) == "orders"


def test_what_the_user_sets_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "service.namespace=ours,service.instance.id=i-1,host.name=h,telemetry.distro.name=no,team=x"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", given)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    found = build_resource().attributes
    wanted = {"service.namespace": "ours", "service.instance.id": "i-1", "host.name": "h", "team": "x"}
    assert {key: found[key] for key in wanted} == wanted
    assert (found["service.name"], found["telemetry.distro.name"]) == ("shop", "flx-otel-distro")


def test_the_defaults_say_which_process_on_which_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    found = build_resource().attributes
    assert found["service.namespace"] == "flx"
    assert {
        "service.name", "service.instance.id", "process.pid", "process.runtime.name", "host.name", "host.arch",
        "os.type", "telemetry.distro.version", "telemetry.sdk.language",
    } <= set(found)  # fmt: skip
    assert not {"process.command_line", "process.command_args"} & set(found)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("mountinfo", "1 2 0:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw"),
        ("cgroup", "3:cpu:/docker/{id}"),
        ("cgroup", "0::/kubepods.slice/cri-containerd-{id}.scope"),
    ],
)
def test_the_container_is_found_in_either_control_group_version(file: str, line: str, tmp_path: Path) -> None:
    identity = "0123456789abcdef" * 4
    (tmp_path / file).write_text(line.format(id=identity) + "\n")
    assert _container(tmp_path) == {"container.id": identity}


def test_outside_a_container_there_is_no_id(tmp_path: Path) -> None:
    assert _container(tmp_path) == {}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("caf\udcc3\udca9", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("caf\udce9", "caf\N{REPLACEMENT CHARACTER}"),
        ("caf\ud800", "caf\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_name_that_is_no_text_can_be_encoded_by_every_exporter(
    given: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=a\udcff")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", f"/srv/{given}.py"])
    found = build_resource().attributes
    assert (found["service.name"], found["team"]) == (name, "a\N{REPLACEMENT CHARACTER}")
    if "\ud800" not in given:  # which no environment can hold
        monkeypatch.setenv("OTEL_SERVICE_NAME", given)
        assert build_resource().attributes["service.name"] == name


def test_a_working_directory_that_is_gone_costs_nothing_but_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "invoices"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert program_name({}, ["python", "/venv/bin/uvicorn", "app:app"]) == "app"
    assert program_name({}, ["python", "app.py"]) == "app"
    monkeypatch.setattr(sys, "orig_argv", ["python", "app.py"])
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    found = build_resource().attributes
    assert (found["service.name"], found["process.pid"]) == ("app", os.getpid())


def test_a_part_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, faults_fail_tests: list[tuple[str, BaseException]]
) -> None:
    def fail() -> str:
        raise OSError("no")

    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setattr(platform, "machine", fail)
    monkeypatch.setattr(sys, "orig_argv", None)
    found = build_resource().attributes
    assert "host.arch" not in found
    assert (found["service.name"], found["process.pid"]) == ("python", os.getpid())
    assert [place for place, _ in faults_fail_tests] == [
        "describing the host (resource)",
        "naming the program (resource)",
    ]
    faults_fail_tests.clear()


def test_a_name_that_no_environment_can_hold_is_not_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLX_OTEL_PROGRAM", raising=False)
    hand_down_name("a\0b")
    assert "FLX_OTEL_PROGRAM" not in os.environ
