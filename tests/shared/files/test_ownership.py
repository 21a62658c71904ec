"""Owner records, with processes that really run, are killed and are stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.waiting import wait_until
from kfp_osft.shared.files import ownership
from kfp_osft.shared.files.leftovers import machine
from kfp_osft.shared.files.ownership import OWNER_FILE, PACE, Owned, Pace, owned
from kfp_osft.shared.reporting.errors import InputError

QUICK = Pace(beat=0.05, silence=0.5)


class Clock:
    """In the place of the module time: sleeping takes no time, and at some moments things happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, Callable[[], object]]] = []

    def at(self, moment: float, happen: Callable[[], object]) -> None:
        self._events.append((moment, happen))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [event for event in self._events if event[0] <= self.now]
        self._events = [event for event in self._events if event not in due]
        for _, happen in due:
            happen()


OWNER = """
import sys, time
from pathlib import Path
from kfp_osft.shared.files.leftovers import machine
from kfp_osft.shared.files.ownership import Pace, owned
with owned(Path(sys.argv[1]), "a test", pace=Pace(0.05, 0.5)) as ownership:
    if len(sys.argv) > 2:
        ownership.add_process(int(sys.argv[2]))
    print("owned", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ownership, "time", clock)
    return clock


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "folder" / OWNER_FILE


@pytest.fixture
def start(record: Path):
    """Starts a process that owns the record until its stdin is closed."""
    started = []

    def run(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(record), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout and process.stdout.readline() == "owned\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def elsewhere(record: Path, **fields) -> None:
    """The record of an owner on another machine, which this test writes."""
    record.parent.mkdir(exist_ok=True)
    content = {
        "id": "theirs",
        "who": "preprocess",
        "key": "",
        "host": "node-7",
        "since": "2026-11-26 10:00:00 UTC",
        "machine": "another",
        "processes": [[1, "4711"]],
        "by": "them",
        "count": 1,
    }
    record.write_text(json.dumps(content | fields))


def test_one_owner_at_a_time_and_nothing_is_left(record: Path):
    with owned(record, "launch_trainjob"), pytest.raises(Owned) as refused, owned(record, "another", wait=False):
        pytest.fail("two owners")
    assert str(refused.value).startswith(f"launch_trainjob, process {os.getpid()} on ")
    assert " since 2" in str(refused.value)
    assert list(record.parent.iterdir()) == []


def test_another_process_is_refused_while_its_owner_lives_and_may_wait_for_it(record: Path, start, capsys):
    process = start()
    with pytest.raises(Owned, match=f"^a test, process {process.pid} on "), owned(record, "x", wait=False):
        pass
    threading.Timer(0.3, process.stdin.close).start()
    with owned(record, "x", pace=QUICK):
        assert process.wait() == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{record.parent} belongs to a test, process {process.pid} on ")
    assert told[0].endswith(": waiting for it") and told[1:] == [f"{record.parent} is free now"]


def test_a_killed_owner_of_this_machine_is_none_at_once_and_a_stopped_one_is(record: Path, start, clock: Clock):
    process = start()
    process.send_signal(signal.SIGSTOP)
    # Longer than an owner of another machine may be silent.
    clock.at(600, process.kill)
    with owned(record, "x"):
        assert process.wait() == -signal.SIGKILL
        assert clock.now >= 600
        looked = clock.now
    # One that is killed already is not waited for.
    killed = start()
    killed.kill()
    killed.wait()
    with owned(record, "x", wait=False):
        assert clock.now == looked


def test_a_zombie_owns_nothing(record: Path, start):
    process = start()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with owned(record, "x", wait=False):
        pass


def test_an_owner_lives_as_long_as_the_processes_that_outlive_it(record: Path, start):
    heir = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    process = start(str(heir.pid))
    process.kill()
    process.wait()
    with pytest.raises(Owned), owned(record, "x", wait=False):
        pass
    heir.communicate()
    with owned(record, "x", wait=False):
        pass


def test_another_process_of_the_same_id_is_not_the_owner(record: Path):
    elsewhere(record, machine=machine(), processes=[[os.getpid(), "1"]])
    with owned(record, "x", wait=False):
        assert json.loads(record.read_text())["who"] == "x"


def test_an_owner_elsewhere_lives_while_it_counts_and_is_gone_when_it_is_silent(record: Path, clock: Clock):
    elsewhere(record)
    clock.at(30, lambda: elsewhere(record, count=2))
    with pytest.raises(Owned, match="^preprocess, process 1 on node-7 since 2026"), owned(record, "x", wait=False):
        pass
    assert 30 <= clock.now < 60

    began = clock.now
    with owned(record, "x", wait=False):
        assert clock.now - began > PACE.silence


@pytest.mark.parametrize("content", ["", "{", "null", '{"who": "x", "id": "y", "processes": 3}'])
def test_a_record_that_nobody_completes_is_given_up(record: Path, content: str):
    record.parent.mkdir()
    record.write_text(content)
    with owned(record, "x", pace=QUICK):
        assert json.loads(record.read_text())["who"] == "x"
    assert list(record.parent.iterdir()) == []


def test_a_claim_that_a_killed_process_left_does_not_last(record: Path):
    elsewhere(record)
    (record.parent / f".{OWNER_FILE}.theirs.claim").touch()
    with owned(record, "x", pace=QUICK):
        pass
    assert list(record.parent.iterdir()) == []


MANY = """
import os, random, sys, time
from pathlib import Path
from kfp_osft.shared.files.leftovers import machine
from kfp_osft.shared.files.ownership import Pace, owned
record, mark, deadline = Path(sys.argv[1]), Path(sys.argv[2]), time.monotonic() + 2
times = 0
while time.monotonic() < deadline:
    with owned(record, "x", pace=Pace(0.02, 5)):
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        time.sleep(0.002)
        mark.unlink()
        times += 1
        if random.random() < 0.1:
            mark = Path(sys.argv[2])
            os.kill(os.getpid(), 9)
print(times)
"""


def test_of_many_that_come_go_and_are_killed_never_two_have_it(record: Path):
    command = [sys.executable, "-c", MANY, str(record), str(record.parent.parent / "mark")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in "12345"
    ]
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    assert all(code in (0, -signal.SIGKILL) for _, code in ended), ended


# TrainJobs: whoever follows one shares its ownership.


def job(record: Path, name: str = "ns/one", pace: Pace = Pace(beat=0.2, silence=1), **options):
    return owned(record, f"TrainJob {name}", key=name, pace=pace, **options)


def test_two_launchers_of_a_trainjob_know_of_each_other_and_one_alone_of_nobody(record: Path):
    with job(record) as one:
        assert not one.other_is_alive
        with job(record) as two:
            wait_until(lambda: one.other_is_alive and two.other_is_alive)
        assert record.exists()
        wait_until(lambda: not one.other_is_alive)
    assert not record.exists()


def test_a_launcher_that_has_counted_of_late_is_known_at_once(record: Path):
    slow = Pace(beat=3600, silence=7200)
    with job(record, pace=slow), job(record, pace=slow) as two:
        assert two.other_is_alive


def test_the_next_launcher_of_a_trainjob_takes_it_up_at_once(record: Path):
    elsewhere(record, who="TrainJob one", key="ns/one")
    hour_ago = record.stat().st_mtime - 3600
    os.utime(record, (hour_ago, hour_ago))
    with job(record) as two:
        assert not two.other_is_alive
        assert json.loads(record.read_text())["id"] == "theirs"
    assert not record.exists()


def test_of_a_trainjob_that_its_launcher_leaves_behind_the_cluster_is_asked_at_once(record: Path):
    with owned(record, "TrainJob one", key="ns/one") as one:
        one.stays = True
    asked = []

    def lives(key: str) -> bool:
        asked.append(key)
        return False

    with owned(record, "TrainJob two", key="ns/two", lives=lives):
        assert asked == ["ns/one"]
        assert json.loads(record.read_text())["who"] == "TrainJob two"
    assert not record.exists()


def test_a_retry_shares_the_record_that_was_left_behind_and_follows_alone(record: Path):
    with job(record) as one:
        one.stays = True
    with job(record) as two:
        assert not two.other_is_alive
        assert "left" not in json.loads(record.read_text())
    assert not record.exists()


def test_of_another_trainjob_whose_launcher_is_gone_the_cluster_is_asked(record: Path):
    elsewhere(record, who="TrainJob one", key="ns/one")
    asked = []

    def lives(key: str) -> bool:
        asked.append(key)
        return len(asked) < 3

    with pytest.raises(Owned, match="^TrainJob one on node-7"), job(record, "ns/two", lives=lives, wait=False):
        pass
    with job(record, "ns/two", lives=lives):
        pass
    assert asked == ["ns/one"] * 3


@pytest.mark.parametrize("lives", [None, lambda key: None])
def test_where_nobody_can_say_whether_it_still_trains_a_sentence_says_what_to_do(record: Path, lives):
    elsewhere(record, who="TrainJob one in namespace ns", key="ns/one")
    with pytest.raises(InputError) as refused, owned(record, "x", lives=lives, pace=QUICK):
        pass
    assert str(refused.value) == (
        f"{record.parent} belongs to TrainJob one in namespace ns, and it cannot be found out here whether it still "
        f"trains; once it is gone, remove {record}"
    )
    assert record.exists()


def test_a_process_that_was_taken_for_gone_ends_when_it_comes_back(record: Path, start, capfd):
    process = start()
    process.send_signal(signal.SIGSTOP)
    # As one of another machine does after a minute.
    elsewhere(record, who="another")
    process.send_signal(signal.SIGCONT)
    assert process.wait() == -signal.SIGTERM
    assert process.stdout.read().startswith(f"Error: {record.parent} belongs to another, process 1 on node-7")
    assert json.loads(record.read_text())["who"] == "another"
