"""Searches as jobs: what travels, what is refused in one sentence, and a real cluster that starts, stops and goes on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from small_run import Answer, evo, settings, write_config

from cluster import jobs
from cluster.jobs import check_run_id, token_of
from cluster.packing import own_modules, pack
from cluster.ray_session import connect
from evo.config.schema import load as load_config
from evo.config.schema import validate
from evo.result import load

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "0123456789abcdef" * 4
FAILED = re.compile("FAILED|STOPPED|SUCCEEDED")
USER_MODULE = "from my_parts import small\n\ndef build(width=8):\n    return small(width)\n"
USER_PARTS = "from evaluators.models.small import digits_cnn\n\ndef small(width):\n    return digits_cnn(width=width)\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a network in one module that imports another one, weights, and files that should stay at home."""
    folder = tmp_path / "project"
    (folder / "runs" / "old").mkdir(parents=True)
    (folder / "my_nets.py").write_text(USER_MODULE)
    (folder / "my_parts.py").write_text(USER_PARTS)
    (folder / "secret.key").write_text("secret")
    (folder / ".env").write_text("PASSWORD=secret")
    (folder / "runs" / "old" / "config.yaml").write_text("x: 1")
    values = settings(None)
    values["model"] = {"factory": "my_nets:build"}
    write_config(folder / "search.yaml", values)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("my_nets", "my_parts"):  # another test may have imported modules of these names
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_the_users_modules_travel_and_the_rest_of_the_folder_stays(project: Path, tmp_path: Path) -> None:
    (project / "trained.safetensors").write_bytes(b"weights")
    config = load_config("search.yaml", ["model.weights=trained.safetensors"])
    assert own_modules(config) == {"my_nets"}
    packed = tmp_path / "packed"
    packed.mkdir()
    pack(config, packed)
    files = {p.relative_to(packed).as_posix() for p in packed.rglob("*") if p.is_file()}
    assert {"my_nets.py", "my_parts.py", "config.yaml", "weights/trained.safetensors", "evo/cli/commands.py"} <= files
    assert not any(word in name for name in files for word in ("secret", ".env", "runs/", "__pycache__"))
    assert yaml.safe_load((packed / "config.yaml").read_text())["model"]["weights"] == "weights/trained.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", "import my_nets, evo, sys; print(my_nets.build, evo.__file__)"],
        cwd=packed, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, capture_output=True, text=True,
    )  # fmt: skip
    assert str(packed) in done.stdout, done.stderr


def test_a_factory_that_is_not_here_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    values = settings(None)
    values["model"] = {"factory": "no_such_module:build"}
    with pytest.raises(ValueError, match="importable where you submit, but got module='no_such_module'"):
        pack(validate(values), tmp_path)


@pytest.mark.parametrize("run_id", ["../up", "a/b", "a\\b", ".", "..", "", "-x", "a" * 65, "a b", "a;rm", "a\n", "ä"])
def test_a_run_id_leads_nowhere_else(run_id: str) -> None:
    with pytest.raises(ValueError, match="a run id must be up to 64 letters"):
        check_run_id(run_id)


def test_addresses_that_cannot_be_are_one_sentence(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for address, text in (
        ("127.0.0.1:8265", "must look like http://HEAD:8265"),
        ("http://127.0.0.1:9", "must listen at"),
    ):
        answer = evo(capsys, "submit", "search.yaml", "--address", address)
        assert answer.code == 2 and text in answer.err and answer.err.count("\n") == 1
    assert "a run id must be" in evo(capsys, "submit", "search.yaml", "--address", "http://x:1", "--id", "../x").err


def test_the_token_is_found_where_ray_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert token_of({}) == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from home\n")
    (tmp_path / "other").write_text("from file\n")
    assert token_of({}) == "from home"
    assert token_of({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}) == "from file"
    assert token_of({"RAY_AUTH_TOKEN": "given", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}) == "given"


class Gate(BaseHTTPRequestHandler):
    """A job server's door, as Ray's dashboard keeps it: 401 without a token, 403 with another one."""

    def do_GET(self) -> None:
        code = 403 if self.headers.get("Authorization") else 401
        self.send_response(code)
        self.end_headers()
        self.wfile.write(b"Unauthorized")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize(("token", "got"), [("", "no token"), ("f" * 64, "a wrong token")])
def test_a_server_that_wants_another_token_is_one_sentence(
    token: str, got: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        for command in (["status", "mine"], ["resume", "mine"]):
            answer = evo(capsys, *command, "--address", address)
            assert (answer.code, answer.err.count("\n")) == (2, 1)
            assert f"must be given the cluster's token, but got {got}; set RAY_AUTH_TOKEN" in answer.err
    finally:
        server.shutdown()
        server.server_close()


def test_a_driver_that_is_not_let_in_hears_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for token, got in (("", "no token given"), ("f" * 64, "the token given")):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(ConnectionError, match=rf"must let this driver in, but got address=auto .* with {got}; is"):
            connect("auto", 1)


def refuse(address: str, **_: object) -> None:
    raise ConnectionError(f"Failed to connect to Ray cluster at {address}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head with a dashboard on loopback that lets in who has the token; all its processes end with it."""
    port, dashboard = free_port(), free_port()
    temp = Path("/tmp") / f"evo-head-{os.getpid()}"  # socket paths have 107 bytes
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats",
        f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}", f"--temp-dir={temp}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # as where the environment is activated
    env.pop("RAY_ADDRESS", None)
    log = open(tmp_path_factory.mktemp("head") / "log", "w+")  # noqa: SIM115
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: listens(dashboard) or process.poll() is not None, "a head")
        assert process.poll() is None, Path(log.name).read_text()
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
        log.close()
        shutil.rmtree(temp, ignore_errors=True)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def until(holds: Callable[[], object], what: str, limit_s: float = 900.0) -> None:
    """Wait as long as a busy machine may take."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}"
        time.sleep(0.5)


@pytest.mark.chaos
@pytest.mark.ray
def test_a_search_is_submitted_followed_stopped_and_goes_on(
    head: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ["submit", "search.yaml", "--address", head, "--storage", str(tmp_path / "storage"), "--id", "mine"]
    submit += ["--set", "execution.backend=ray", "--set", "execution.workers=1"]
    for token, got in (("", "no token"), ("f" * 64, "a wrong token")):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
        answer = evo(capsys, *submit)
        assert (answer.code, answer.err.count("\n")) == (2, 1) and f"but got {got}; set RAY_AUTH_TOKEN" in answer.err
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    def at(command: str, *options: str) -> Answer:
        return evo(capsys, command, "mine", "--address", head, *options)

    assert evo(capsys, *submit, "--set", "budget.generations=5000").code == 0
    run = tmp_path / "storage" / "mine"
    until(lambda: list(run.glob("manifest-*")) or FAILED.search(at("status").out), "a round")
    assert "mine is at work already (RUNNING)" in evo(capsys, *submit).err, at("logs").out
    assert "mine  RUNNING" in at("status").out
    assert at("stop").code == 0
    stopped = load(str(run)).evaluations
    assert stopped
    rounds = str(max(int(e.candidate.generation) for e in stopped) + 3)
    again = at("resume", "--set", f"budget.generations={rounds}")
    assert again.code == 0 and "mine.2" in again.err, again.err
    followed = at("logs", "--follow")
    assert followed.code == 0, followed.err + followed.out
    assert "finished" in followed.out, "the log of the search comes through"
    assert evo(capsys, *submit, "--set", f"budget.generations={rounds}", "--follow").code == 0, "nothing left to do"
    states = at("status").out
    assert "mine  STOPPED" in states and "mine.2  SUCCEEDED" in states and "mine.3  SUCCEEDED" in states
    done = load(str(run)).evaluations
    assert done[: len(stopped)] == tuple(stopped) and len(done) > len(stopped), "what was finished before is kept"
    assert evo(capsys, "verify", run).code == 0
    written = b"".join(p.read_bytes() for p in run.rglob("*") if p.is_file())
    said = "".join(at("logs").out + followed.out + followed.err).encode()
    assert TOKEN.encode() not in written + said


def test_a_cluster_that_was_only_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([RuntimeError("No available agent to submit job"), None, RuntimeError("status code 500: other")])
    monkeypatch.setattr(jobs, "POLL_S", 0.0)

    def submit() -> None:
        if (error := next(answers)) is not None:
            raise error

    jobs._patiently(submit)
    with pytest.raises(RuntimeError, match="other"):
        jobs._patiently(submit)
    monkeypatch.setattr(jobs, "AGENT_PATIENCE_S", -1.0)
    answers = iter([RuntimeError("No available agent to submit job"), None])
    with pytest.raises(RuntimeError, match="No available agent"):
        jobs._patiently(submit)
