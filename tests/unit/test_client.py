"""Both clients, blocking and asyncio, call for call: with a scripted transport, and over real connections."""

import asyncio
import json
import subprocess
import sys
import threading

import httpx
import pytest
from client_kit import Both, scripted
from reranking_client import (
    AsyncRerankClient,
    BadReplyError,
    Budget,
    CallFailedError,
    OutOfTimeError,
    Question,
    RefusedError,
    RerankClient,
    UnreachableError,
)
from running import wait_for
from services.faulty_server import FAULTS, score_of, serving

TEXTS = [f"document {number}" for number in range(25)]
BEST_FIRST = sorted(range(25), key=lambda index: -score_of(TEXTS[index]))


@pytest.fixture(params=[RerankClient, AsyncRerankClient], ids=["blocking", "asyncio"])
def both(request):
    made = Both(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def test_a_ranking_has_the_documents_in_order(both, server):
    client = both.make(server.url)
    documents = [{"content": text, "metadata": {"id": number}} for number, text in enumerate(TEXTS)]
    ranking = both.call(client.rerank, "bees", documents, top_n=3)
    assert [each.index for each in ranking.results] == BEST_FIRST[:3]
    assert [each.metadata["id"] for each in ranking.results] == BEST_FIRST[:3]
    assert [each.content for each in ranking.results] == [TEXTS[index] for index in BEST_FIRST[:3]]
    assert (ranking.query, ranking.model, ranking.degraded) == ("bees", "faulty", False)


def test_scores_are_in_the_order_of_the_documents(both, server):
    client = both.make(server.url, split_documents=10)
    assert both.call(client.score, "bees", TEXTS) == [score_of(text) for text in TEXTS]


def test_a_large_list_is_split_and_merged_and_told_of(both, server):
    told, before = [], len(server.documents)
    client = both.make(server.url, split_documents=10, concurrency=2)
    split = both.call(client.rerank, "bees", TEXTS, request_id="mine", on_progress=lambda *done: told.append(done))
    assert sorted(server.documents[before:]) == [5, 10, 10]
    assert {each["x-request-id"] for each in server.seen[-3:]} == {"mine.1", "mine.2", "mine.3"}
    assert [each.index for each in split.results] == BEST_FIRST
    assert (told[-1], len(told)) == ((25, 25), 3)


def test_a_batch_is_answered_in_order_and_a_bad_question_in_its_place(both, server):
    client = both.make(server.url, split_documents=10)
    questions = [Question("a", TEXTS[:3]), Question(" ", ["x"]), Question("c", TEXTS), Question("d", ["y"])]
    first, bad, large, last = both.call(client.rerank_batch, questions)
    assert (len(first.results), last.results[0].content) == (3, "y")
    assert isinstance(bad, RefusedError)
    assert [each.index for each in large.results] == BEST_FIRST
    assert both.call(client.rerank_batch, []) == []


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != "503 with Retry-After"])
def test_every_fault_of_a_service_is_survived(both, server, fault):
    server.next.extend([fault] * 4)
    ranking = both.call(both.make(server.url).rerank, "bees", TEXTS)
    assert [each.index for each in ranking.results] == BEST_FIRST
    assert len(both.clock.slept) == 4
    assert all(0 <= slept <= most for slept, most in zip(both.clock.slept, (0.1, 0.4, 1.6, 6.4), strict=True))
    assert len({each["x-request-id"] for each in server.seen[-5:]}) == 1, "one call, one id"


def test_retry_after_is_honoured(both, server):
    server.next.append("503 with Retry-After 7")
    both.call(both.make(server.url).rerank, "bees", ["x"])
    assert 7 <= both.clock.slept[0] <= 7.1


def test_each_try_tells_the_service_what_time_is_left(both):
    transport, seen = scripted({"status_code": 503, "headers": {"Retry-After": "7"}}, None)
    both.call(both.make(transport=transport, timeout_s=20).rerank, "bees", ["x"])
    told = [float(each.headers["X-Request-Timeout"]) for each in seen]
    assert told[0] == 19.75
    assert 12.6 <= told[1] <= 12.75


def test_the_key_is_sent_and_never_shown(both):
    transport, seen = scripted(401)
    client = both.make(transport=transport, key="hidden-value")
    with pytest.raises(RefusedError) as failed:
        both.call(client.rerank, "bees", ["x"])
    assert seen[0].headers["Authorization"] == "Bearer hidden-value"
    assert "hidden-value" not in repr(failed.value) + str(failed.value) + repr(vars(client))
    assert len(seen) == 1
    with pytest.raises(ValueError, match="the key holds") as refused:
        both.make(key="hidden-value\n")
    assert "hidden-value" not in str(refused.value)


def test_a_client_has_one_budget_for_all_its_calls(both):
    transport, seen = scripted(*[503] * 100)
    client = both.make(transport=transport, budget=Budget(share=0.2, burst=2))
    for _ in range(20):
        with pytest.raises(RefusedError):
            both.call(client.rerank, "bees", ["x"])
    assert 20 < len(seen) <= 20 + 2 + 0.2 * 20


def test_a_failed_part_fails_the_call_and_stops_the_others(both):
    transport, seen = scripted(413)
    client = both.make(transport=transport, split_documents=1, concurrency=1)
    with pytest.raises(RefusedError) as failed:
        both.call(client.rerank, "bees", TEXTS)
    assert failed.value.status == 413
    assert len(seen) <= 2


def test_what_goes_wrong_below_is_an_error_of_ours(both):
    error = httpx.ConnectError("[Errno 111] Connection refused")
    transport, seen = scripted(*[error] * 5)
    with pytest.raises(UnreachableError) as failed:
        both.call(both.make(transport=transport).rerank, "bees", ["secret text"])
    assert len(failed.value.tries) == len(seen) == 5
    assert "secret text" not in str(failed.value)
    transport, _ = scripted({"status_code": 200, "text": "<html>"})
    with pytest.raises(BadReplyError):
        both.call(both.make(transport=transport).rerank, "bees", ["x"])


def test_an_unreachable_service_is_an_error_with_the_reason(both):
    with serving() as gone:
        url = gone.url
    with pytest.raises(UnreachableError, match="can't be reached"):
        both.call(both.make(url).rerank, "bees", ["x"])


def test_a_service_that_says_nothing_is_given_up_at_the_deadline(both, server):
    """Real time, a tenth of a second of it."""
    client = both.kind(server.url, timeout_s=0.15)
    server.next.append("says nothing")
    try:
        with pytest.raises(OutOfTimeError, match=r"gave no answer in \S+ s"):
            both.call(client.rerank, "bees", ["x"])
    finally:
        both.call(client.close if both.kind is RerankClient else client.aclose)


def events(*states):
    body = "retry: 1000\n\n: still here\n\n"
    for state in states:
        body += f"event: progress\ndata: {json.dumps(state)}\n\n"
    return {"status_code": 200, "text": body, "headers": {"Content-Type": "text/event-stream"}}


def state(scored, status="running"):
    return {"id": "mine", "status": status, "scored": scored, "pairs": 9, "more": "than we know"}


def test_following_takes_up_a_broken_stream_again(both):
    transport, seen = scripted(events(state(1)), 502, httpx.ReadError(""), events(state(5), state(9, "ok")))
    told = list(both.call(both.make(transport=transport).follow, "mine"))
    assert [(each.scored, each.pairs, each.status) for each in told] == [
        (1, 9, "running"),
        (5, 9, "running"),
        (9, 9, "ok"),
    ]
    assert told[-1].ended
    assert [each.url.path for each in seen] == ["/progress/mine"] * 4


def test_following_ends_with_what_the_service_refuses(both):
    transport, _ = scripted(401)
    with pytest.raises(RefusedError):
        list(both.call(both.make(transport=transport).follow, "mine"))


@pytest.mark.parametrize(
    "how",
    [{"url": "service:80"}, {"url": "ftp://service"}, {"url": ""}, {"split_documents": 0}, {"concurrency": 0}],
)
def test_settings_that_make_no_sense_are_refused(both, how):
    with pytest.raises(ValueError, match=r"address|at least 1"):
        both.make(**how)


def test_an_id_that_the_service_would_replace_is_refused(both):
    with pytest.raises(ValueError, match="request_id"):
        both.call(both.make().rerank, "bees", ["x"], request_id="a b")


def test_a_blocking_call_that_is_left_early_leaves_no_work_behind(server):
    def parts_at_work():
        return [thread for thread in threading.enumerate() if thread.name == "rerank-part"]

    def leave(_done, _total):
        raise KeyboardInterrupt

    with RerankClient(server.url, split_documents=1) as client, pytest.raises(KeyboardInterrupt):
        client.rerank("bees", TEXTS, on_progress=leave)
    wait_for(lambda: not parts_at_work(), "the threads end")


def test_a_cancelled_asyncio_call_ends_its_parts():
    async def trial():
        begun, began = [], asyncio.Event()

        async def never(request):
            begun.append(request)
            if len(begun) == 3:
                began.set()
            await asyncio.Event().wait()

        async with AsyncRerankClient(
            "http://service", split_documents=1, concurrency=3, transport=httpx.MockTransport(never)
        ) as client:
            call = asyncio.create_task(client.rerank("bees", TEXTS))
            await began.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(trial())


def test_many_threads_may_share_a_client(server):
    """Each gets its own answer."""
    wrong = []
    with RerankClient(server.url) as client:

        def ask(number):
            text = f"text {number}"
            if client.score("q", [text]) != [score_of(text)]:
                wrong.append(number)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_it_is_imported_without_anything_that_serves():
    program = (
        "import sys, reranking_client\n"
        "heavy = {'flask', 'werkzeug', 'gevent', 'msgspec', 'numpy', 'openvino', 'pydantic', 'torch', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(n for n in sys.modules if n.startswith(('pusher', 'logs')) or "
        "n.startswith('webapp.') and not n.startswith('reranking_client')))"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[] []"


@pytest.mark.parametrize("kind", [OutOfTimeError, RefusedError, UnreachableError])
def test_every_error_is_a_failed_call(kind):
    assert issubclass(kind, CallFailedError)
