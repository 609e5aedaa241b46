import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from engine_helpers import living
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines.app import EngineError
from fedsim.engines.environment import environment
from fedsim.engines.inline import InlineGrid
from fedsim.engines.polling import PollingGrid, Stopped
from fedsim.engines.processes import free_ports, processes, python_environment
from fedsim.engines.quiet import PRIVATE

CHILD = """
import subprocess
subprocess.Popen(["sleep", "300"])
print("up", flush=True)
subprocess.run(["sleep", "300"])
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(300)
"""


on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")


def running(group: int) -> bool:
    """Return whether any process of the group is alive."""
    return any(found == group for found, _ in living())


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@on_linux
def test_processes_and_their_children_end_with_the_block(tmp_path: Path) -> None:
    groups = []

    def fail() -> None:
        with processes(tmp_path, os.environ) as started:
            groups.append(started.start("child", sys.executable, "-c", CHILD).pid)
            wait_for(tmp_path / "child.log", "up")
            assert running(groups[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    # Killed is killed, but on a busy machine the kernel takes a moment to say so of a grandchild.
    deadline = time.monotonic() + 10
    while running(groups[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(groups[0])


@on_linux
def test_a_process_that_will_not_listen_is_killed(tmp_path: Path) -> None:
    with processes(tmp_path, os.environ) as started:
        group = started.start("deaf", sys.executable, "-c", DEAF).pid
        wait_for(tmp_path / "deaf.log", "up")
    assert not running(group)


@on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_end_where_we_are_interrupted(tmp_path: Path, number: int) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from fedsim.engines.processes import processes
with processes(Path({str(tmp_path)!r}), os.environ) as started:
    child = started.start("child", sys.executable, "-c", {CHILD!r})
    Path({str(tmp_path / "pid")!r}).write_text(str(child.pid) + " ")
    time.sleep(300)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env=python_environment(), stderr=subprocess.DEVNULL
    )
    wait_for(tmp_path / "child.log", "up")
    wait_for(tmp_path / "pid", " ")
    parent.send_signal(number)
    assert parent.wait(timeout=20) != 0
    assert not running(int((tmp_path / "pid").read_text()))


@on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["start", "end"])
def test_no_process_is_left_where_an_interruption_meets_its_start_or_its_end(
    tmp_path: Path, number: int, moment: str
) -> None:
    script = f"""
import os, subprocess
from pathlib import Path
from fedsim.engines.processes import Processes, processes

start, end = subprocess.Popen, Processes.end

def start_and_interrupt(*args, **kwargs):
    child = start(*args, **kwargs)
    Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
    if {moment == "start"}:
        os.kill(os.getpid(), {int(number)})
    return child

def interrupt_and_end(started):
    os.kill(os.getpid(), {int(number)})
    end(started)

subprocess.Popen = start_and_interrupt
if {moment == "end"}:
    Processes.end = interrupt_and_end
with processes(Path({str(tmp_path)!r}), os.environ) as started:
    started.start("child", "sleep", "300")
"""
    parent = subprocess.run(
        [sys.executable, "-c", script], env=python_environment(), stderr=subprocess.DEVNULL, timeout=60
    )
    assert parent.returncode in (128 + signal.SIGTERM, -signal.SIGINT)
    assert not running(int((tmp_path / "pid").read_text()))


def test_a_dead_process_is_noticed_with_its_last_words(tmp_path: Path) -> None:
    with processes(tmp_path, os.environ) as started:
        started.start("node", sys.executable, "-c", "raise SystemExit('no such address')").wait()
        with pytest.raises(EngineError, match=r"^node ended with exit code 1: no such address"):
            started.check("node")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with (
        processes(tmp_path, os.environ) as started,
        pytest.raises(EngineError, match="flower-nothing: not found"),
    ):
        started.start("x", "flower-nothing")


def test_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert all(1024 <= port <= 65535 for port in ports)


def test_environment_sets_what_is_unset_and_restores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_SET", "user")
    monkeypatch.setenv("FEDSIM_TOUCHED", "user")
    monkeypatch.delenv("FEDSIM_UNSET", raising=False)
    before = dict(os.environ)
    with environment({"FEDSIM_SET": "ours", "FEDSIM_UNSET": "ours"}, "FEDSIM_TOUCHED"):
        assert (os.environ["FEDSIM_SET"], os.environ["FEDSIM_UNSET"]) == ("user", "ours")
        os.environ["FEDSIM_TOUCHED"] = "theirs"
    assert dict(os.environ) == before


def test_importing_fedsim_turns_telemetry_off_unless_asked_for() -> None:
    names = ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")
    script = f"import os, fedsim; print([os.environ[n] for n in {names}])"
    clean = {key: value for key, value in python_environment().items() if key not in PRIVATE}
    for asked, expected in (({}, "['0', '0']"), ({"FLWR_TELEMETRY_ENABLED": "1"}, "['1', '0']")):
        done = subprocess.run(
            [sys.executable, "-c", script], env=clean | asked, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


class Slow(InlineGrid):
    """Hands a reply out only at the third time of asking."""

    asked = 0

    def pull_messages(self, message_ids: object) -> list[Message]:
        self.asked += 1
        return super().pull_messages(message_ids) if self.asked >= 3 else []  # type: ignore[arg-type]


def slow() -> Slow:
    app = ClientApp()
    app.train()(lambda message, context: Message(message.content, reply_to=message))
    return Slow(app, 2)


def test_polling_waits_until_replies_are_there() -> None:
    inner = slow()
    replies = PollingGrid(inner, interval=0.001).send_and_receive(
        [Message(RecordDict(), node, "train") for node in inner.get_node_ids()]
    )
    assert len(replies) == 2
    assert inner.asked == 3


def test_polling_gives_up_in_time() -> None:
    inner = slow()
    message = Message(RecordDict(), inner.get_node_ids()[0], "train")
    assert PollingGrid(inner, interval=0.01).send_and_receive([message], timeout=0.0) == []


def test_polling_ends_when_the_engine_does() -> None:
    inner, stop = slow(), threading.Event()
    inner.asked = -(10**9)
    grid = PollingGrid(inner, interval=0.01, stop=stop)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        grid.send_and_receive([Message(RecordDict(), inner.get_node_ids()[0], "train")])
    with pytest.raises(Stopped):
        grid.get_node_ids()
