"""Trials on a real Ray: one that is started here, a cluster of two nodes of which one is killed, and no cluster."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from executor_work import Fake, Unmakeable, Unpicklable, alive, starts, until
from test_search_executors import TESTS, begun, ends, script, two_rungs

from netpress.errors import ModelError, NetpressError, RecipeError
from netpress.search.executors import Task, open_executor
from netpress.search.executors.inline import Inline

ray = pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """What the processes of Ray are started with: they import the work of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


# --- no cluster: these start nothing ---


def refused(address: str, tmp_path: Path) -> tuple[str, float]:
    """What is said, and after how many seconds."""
    begin = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        open_executor(address, Fake(str(tmp_path)), workers=1)
    assert "\n" not in str(caught.value)
    assert address in str(caught.value)
    return str(caught.value), time.monotonic() - begin


@pytest.fixture
def closed_port():
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.fixture
def web_port():
    """A port at which something else answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["ray://", ""])
def test_an_address_where_nobody_listens_is_refused(scheme, closed_port, tmp_path):
    words, seconds = refused(f"{scheme}127.0.0.1:{closed_port}", tmp_path)
    assert "no Ray cluster answers" in words
    assert "refused" in words
    assert seconds < 15


@pytest.mark.parametrize("scheme", ["ray://", ""])
def test_an_address_where_something_else_answers_is_refused(scheme, web_port, tmp_path):
    words, seconds = refused(f"{scheme}127.0.0.1:{web_port}", tmp_path)
    assert "is not that part of a Ray cluster" in words
    assert seconds < 15


@pytest.mark.parametrize("address", ["ray://no-such-host.invalid:10001", "ray://head:port", "ray://"])
def test_what_is_no_address_is_refused(address, tmp_path):
    assert refused(address, tmp_path)[1] < 15


def test_without_ray_the_message_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'netpress\[ray\]'"):
        open_executor("ray", Fake(str(tmp_path)), workers=1)


# --- started here ---


@pytest.mark.slow
def test_ray_gives_the_numbers_of_inline_and_survives_crashes(tmp_path, capfd):
    inline, there = tmp_path / "inline", tmp_path / "there"
    inline.mkdir()
    there.mkdir()
    executor = open_executor("ray", Fake(str(there)), workers=2)
    try:
        assert two_rungs(executor) == two_rungs(Inline(Fake(str(inline))))
        tasks = [Task(20, {"x": 20, "fail": 1}), Task(21, {"x": 21, "die": 1}), Task(22, {"x": 22, "die": 9})]
        found = ends(executor, [*tasks, Task(23, {"x": 23})])
        assert found[20].error == "BudgetError: no channel is left"
        assert (found[21].error, found[23].error) == ("", "")
        assert found[22].error.startswith("the worker was lost 3 times")
        assert [len(starts(there, f"{n}-0")) for n in (20, 21, 22, 23)] == [1, 2, 3, 1]
        assert found[21].numbers["threads"] == "1"
        assert os.getpid() not in starts(there, "23-0")
        executor.submit(Task(24, {"x": 24, "sleep": 60}))
        (running,) = until(lambda: starts(there, "24-0"))
    finally:
        executor.close()
    until(lambda: not alive(running))
    assert not ray.is_initialized()
    assert capfd.readouterr() == ("", "")  # tables and JSON are the search's own


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Unpicklable, Unmakeable])
def test_a_work_that_cannot_be_sent_is_refused(kind, tmp_path):
    with pytest.raises(ModelError, match=r"(made for one process|open file); use one process") as caught:
        open_executor("ray", kind(str(tmp_path)), workers=1)
    assert "\n" not in str(caught.value)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_task_that_no_node_can_run_is_refused(tmp_path):
    if ray.is_initialized() or Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RecipeError, match="no node of the Ray cluster has 1 CPUs and 1 GPUs"):
        open_executor("ray", Fake(str(tmp_path), device="cuda"), workers=1)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_ctrl_c_leaves_no_processes(tmp_path):
    search = script(tmp_path, "ray")
    workers = until(lambda: begun(tmp_path), within=60)
    os.killpg(search.pid, signal.SIGINT)
    out, err = search.communicate(timeout=60)
    assert (search.returncode, out, err) == (0, "interrupted\n", "")
    until(lambda: not any(alive(pid) for pid in workers))
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,args="], capture_output=True, text=True, check=True).stdout
    assert not [row for row in listed.splitlines() if row.split()[0] == str(search.pid)]


# --- a cluster ---

FAST = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture
def cluster():
    """A head that also answers clients, and a second node; one CPU each, each with processes of its own."""
    from ray.cluster_utils import Cluster

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port, "_system_config": FAST}
    found = Cluster(initialize_head=True, head_node_args=head)
    found.add_node(num_cpus=1)
    found.client = f"ray://127.0.0.1:{port}"
    yield found
    ray.shutdown()
    found.shutdown()


def lose_a_node(address: str, cluster, folder: Path) -> None:
    """Two trials of two rungs; the second node is killed while it runs one of them, and takes a state with it."""
    pad = 1_000_000  # 8 MB: small states would travel with the numbers
    executor = open_executor(address, Fake(str(folder)), workers=2)
    try:
        first = ends(executor, [Task(n, {"x": n, "sleep": 1, "pad": pad}) for n in (0, 1)])  # one ran on each node
        for n in (0, 1):
            executor.submit(Task(n, {"x": n, "sleep": 4}, rung=1, state=first[n].state))
        until(lambda: starts(folder, "0-1") and starts(folder, "1-1"))
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        found = [executor.wait(), executor.wait()]
        rest = ends(executor, [Task(n, {"x": n}) for n in (2, 3)])
        executor.submit(Task(4, {"x": 4, "sleep": 60}))
        (running,) = until(lambda: starts(folder, "4-0"))
    finally:
        executor.close()
    until(lambda: not alive(running))
    assert sorted(done.task.number for done in found) == [0, 1]
    assert [done.error for done in (*found, *rest.values())] == [""] * 4
    assert sorted(len(starts(folder, f"{n}-1")) for n in (0, 1)) == [1, 2]
    assert sorted(len(starts(folder, f"{n}-0")) for n in (0, 1)) == [1, 2]  # the state that was lost was made again
    inline = Inline(Fake(str(folder)))
    expected = two_rungs(inline)
    assert all(done.numbers["total"] == expected[done.task.number][1] for done in found)


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_trial(cluster, tmp_path):
    lose_a_node(cluster.address, cluster, tmp_path)
    assert len(cluster.list_all_nodes()) == 1  # the head was only left


@pytest.mark.slow
def test_a_client_joins_loses_a_node_and_leaves(cluster, tmp_path, capfd):
    lose_a_node(cluster.client, cluster, tmp_path)
    assert not ray.is_initialized()
    assert capfd.readouterr().out == ""
    # what was left goes on for the next
    executor = open_executor(cluster.client, Fake(str(tmp_path)), workers=1)
    assert ends(executor, [Task(5, {"x": 5})])[5].error == ""
    executor.close()


@pytest.mark.slow
def test_the_wrong_port_of_a_cluster_is_refused(cluster, tmp_path):
    for address in (f"ray://{cluster.address}", cluster.client.removeprefix("ray://")):
        words, seconds = refused(address, tmp_path)
        assert "ray:// takes the client port" in words
        assert seconds < 20


@pytest.mark.slow
def test_a_head_that_is_lost_ends_the_search_in_one_line(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")  # seconds that the client tries again, 30 otherwise
    executor = open_executor(cluster.client, Fake(str(tmp_path)), workers=1)
    executor.submit(Task(0, {"x": 0, "sleep": 60}))
    until(lambda: starts(tmp_path, "0-0"))
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    with pytest.raises(NetpressError, match="was lost; the same command goes on from here"):
        executor.wait()
    executor.close()
    assert not ray.is_initialized()
