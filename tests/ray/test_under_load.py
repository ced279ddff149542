"""Clients of every dialect ask all the time while replicas come, go, die and change. `-s` shows what was counted."""

import os
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import requests
from load_kit import OpenLoop
from running import PATIENCE_S, wait_for

CALM = 60
"""Requests that are answered before something happens, and after."""


def some_more(load):
    wanted = len(load.took_s) + CALM
    wait_for(lambda: len(load.took_s) >= wanted, "requests are answered")


def report(what, load):
    sys.stdout.write(
        f"\n{what}: {sum(load.outcomes.values())} requests, {dict(load.outcomes)}, {dict(load.by_model)}\n"
    )


def test_a_change_of_limits_or_model_restarts_nothing_and_costs_no_request(stack, two_models):
    load = OpenLoop(stack.port)
    load.learn("bert")
    stack.deploy(user_config={"model": two_models.xlm})
    load.learn("xlm")
    replicas = stack.replicas()
    with load:
        some_more(load)
        for change in (
            {"model": two_models.xlm, "max_documents": 5000},
            {"model": two_models.bert},
            {"model": two_models.bert, "request_timeout_s": 60},
            {"model": two_models.xlm},
        ):
            stack.deploy(user_config=change)
            some_more(load)
    report("user_config changed four times", load)
    assert sorted(stack.replicas()) == sorted(replicas)
    assert set(load.outcomes) == {200}
    assert set(load.by_model) == {"bert", "xlm"}


def test_a_replica_more_and_one_less_cost_no_request(stack):
    load = OpenLoop(stack.port)
    load.learn("bert")
    with load:
        some_more(load)
        stack.deploy(num_replicas=3)
        wait_for(lambda: len(stack.replicas()) == 3, "three replicas")
        some_more(load)
        stack.deploy(num_replicas=1)
        wait_for(lambda: len(stack.deployment()["replicas"]) == 1, "one replica")
        some_more(load)
    report("2 -> 3 -> 1 replicas", load)
    assert set(load.outcomes) == {200}
    assert set(load.by_model) == {"bert"}


def test_replicas_come_with_the_load_and_go_with_it(stack):
    """Requests at work decide, by the rule of serve.yaml, but within seconds."""
    quick = {"upscale_delay_s": 1, "downscale_delay_s": 1, "metrics_interval_s": 1, "look_back_period_s": 2}
    stack.options.pop("num_replicas")
    stack.deploy(autoscaling_config={"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 2, **quick})
    load = OpenLoop(stack.port, rate=5)
    load.learn("bert")
    texts = [f"{number} " + "bees find home " * 60 for number in range(500)]
    wait_for(lambda: len(stack.deployment()["replicas"]) == 1, "nobody asks: one replica")
    with load, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(rerank, stack.port, f"query {number}", texts) for number in range(60)]
        wait_for(lambda: len(stack.replicas()) == 3, "three replicas")
        statuses = Counter(each.result() for each in asked)
        wait_for(lambda: len(stack.deployment()["replicas"]) < 3, "fewer again")
    report("1 -> 3 -> fewer replicas by load", load)
    stack.options.pop("autoscaling_config")
    assert statuses == {200: 60}
    assert set(load.outcomes) == {200}


def killed_at_work(stack, port):
    """Statuses of six large requests of which one replica has some when it dies, and what small ones met meanwhile."""
    load = OpenLoop(port)
    load.learn("bert")
    texts = [f"{number} " + "bees find home " * 60 for number in range(1500)]
    with load, ThreadPoolExecutor(6) as pool:
        some_more(load)
        large = [pool.submit(rerank, port, f"query {number}", texts) for number in range(6)]
        some_more(load)
        victim = stack.replicas()[0]
        os.kill(victim, signal.SIGKILL)
        statuses = [each.result() for each in large]
        wait_for(lambda: len(pids := stack.replicas()) == 2 and victim not in pids, "another came")
        some_more(load)
    report(f"a replica killed, 6 large requests at work on both: {statuses}", load)
    return Counter(statuses), load


def rerank(port, query, texts):
    body = {"query": query, "documents": texts}
    return requests.post(f"http://127.0.0.1:{port}/v1/rerank", json=body, timeout=PATIENCE_S).status_code


def test_behind_nginx_a_killed_replica_costs_no_request(stack, front):
    statuses, load = killed_at_work(stack, front)
    assert statuses == {200: 6}
    assert set(load.outcomes) == {200}
    assert set(load.by_model) == {"bert"}


def test_without_nginx_a_killed_replica_costs_what_it_was_at_and_nothing_else(stack):
    """Serve answers 500 to those; it sends nothing of a request again that a replica has accepted."""
    statuses, load = killed_at_work(stack, stack.port)
    assert set(statuses) <= {200, 500}
    assert set(load.outcomes) <= {200, 500}
    assert set(load.by_model) == {"bert"}
