from webapp.servers.gunicorn.worker import YOUNGEST_S, MemoryLimit


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_worker_that_grew_too_large_asks_once_to_be_replaced():
    clock, sizes = Clock(), [90, 101, 150]
    recycling = MemoryLimit(100, lambda: sizes.pop(0), clock=clock)
    clock.now = YOUNGEST_S
    assert [recycling.due() for _ in range(4)] == [0, 101, 0, 0]


def test_a_young_worker_is_left_alone():
    clock = Clock()
    recycling = MemoryLimit(100, lambda: 1000, clock=clock)
    clock.now = YOUNGEST_S - 1
    assert recycling.due() == 0
    clock.now = YOUNGEST_S
    assert recycling.due() == 1000


def test_without_a_limit_memory_is_not_measured():
    assert MemoryLimit(0, lambda: 1 / 0, clock=lambda: 1e9).due() == 0
