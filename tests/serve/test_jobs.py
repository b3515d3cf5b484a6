"""The queue by itself, with a clock that is set by hand."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from vitscope.serve.job import ClosedError, FullError, GoneError, Progress, State, StoppedError, UnknownError
from vitscope.serve.jobs import REMEMBERED, Jobs
from vitscope.serve.limits import Limits

pytestmark = pytest.mark.integration


@dataclass
class Order:
    """As much of an order as the queue looks at."""

    kind: Any = "predicted"
    pictures: int = 1
    model: str = "scenes"

    def __len__(self) -> int:
        return self.pictures


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def queue(clock, **limits):
    return Jobs(Limits(**limits), clock)


def add(jobs, *orders):
    found = []
    for order in orders or (Order(),):
        with jobs.place() as submit:
            found.append(submit(order))
    return found


def taken(jobs, most=8):
    return [job for job, _ in jobs.take(most)]


def test_jobs_wait_in_order_and_those_of_one_kind_go_together(clock):
    jobs = queue(clock)
    a, b, c, d, e, f = add(jobs, Order(), Order("class"), Order(None), Order(), Order(pictures=2), Order(None))
    assert [jobs.look(job.id).ahead for job in (a, b, c, d, e, f)] == [0, 1, 2, 3, 4, 5]
    assert taken(jobs) == [a, d, e]
    assert [jobs.look(job.id).ahead for job in (b, c, f)] == [0, 1, 2]
    assert jobs.look(a.id).state is State.RUNNING
    assert [taken(jobs), taken(jobs), taken(jobs)] == [[b], [c], [f]]
    assert jobs.passes == {4: 1, 1: 3}


def test_a_pass_takes_no_more_pictures_than_it_may_and_a_large_job_goes_alone(clock):
    jobs = queue(clock)
    a, b, c, d = add(jobs, Order(pictures=3), Order(pictures=2), Order(pictures=1), Order(pictures=9))
    assert taken(jobs, 4) == [a, c]
    assert taken(jobs, 4) == [b]
    assert taken(jobs, 4) == [d]


def test_the_queue_is_bounded_with_those_whose_pictures_are_being_read(clock):
    jobs = queue(clock, jobs_waiting=2)
    with jobs.place():
        add(jobs)
        with pytest.raises(FullError), jobs.place():
            pass
    add(jobs)
    with pytest.raises(FullError):
        add(jobs)
    taken(jobs)
    add(jobs, Order(), Order())


def test_a_place_is_given_back_where_reading_fails(clock):
    jobs = queue(clock, jobs_waiting=1)
    for _ in range(3):
        with pytest.raises(KeyError), jobs.place():
            raise KeyError
    add(jobs)


def test_a_job_that_is_done_gives_its_result_and_holds_its_order_no_longer(clock):
    jobs = queue(clock)
    (job,) = add(jobs)
    ((same, order),) = jobs.take(8)
    assert same is job
    assert order is not None
    jobs.report([job], Progress("rise", 3, 9))
    assert jobs.look(job.id).progress == Progress("rise", 3, 9)
    assert not job.finished.done()
    jobs.done(job, b"{}")
    seen = jobs.look(job.id)
    assert (seen.state, seen.result, seen.progress, job.order) == (State.DONE, b"{}", None, None)
    assert job.finished.done()
    jobs.failed(job, "too late")
    assert jobs.look(job.id).state is State.DONE


def test_a_failure_is_one_line(clock):
    jobs = queue(clock)
    (job,) = add(jobs)
    taken(jobs)
    jobs.failed(job, "bad\n  thing", fault=True)
    seen = jobs.look(job.id)
    assert (seen.state, seen.error, seen.fault) == (State.FAILED, "bad thing", True)


def test_cancelling(clock):
    jobs = queue(clock)
    a, b, c = add(jobs, Order(None), Order(), Order())
    assert jobs.cancel(b.id).state is State.CANCELLED
    assert taken(jobs) == [a]
    jobs.cancel(a.id)
    with pytest.raises(StoppedError):
        jobs.report([a])
    jobs.done(a, b"{}")
    assert jobs.look(a.id).state is State.CANCELLED
    assert taken(jobs) == [c]
    assert jobs.cancel(a.id).state is State.CANCELLED  # and now it is forgotten
    with pytest.raises(GoneError):
        jobs.look(a.id)
    with pytest.raises(UnknownError):
        jobs.cancel("unheard of")


def test_a_pass_goes_on_while_one_of_its_jobs_is_waited_for(clock):
    jobs = queue(clock)
    a, b = add(jobs, Order(), Order())
    taken(jobs)
    jobs.cancel(a.id)
    jobs.report([a, b], Progress("rise", 1, 2))
    assert jobs.look(a.id).progress is None
    jobs.done(b, b"1")
    assert jobs.look(b.id).result == b"1"


@pytest.mark.parametrize("running", [False, True])
def test_a_job_runs_out_of_time(running, clock):
    jobs = queue(clock, job_seconds=5)
    (job,) = add(jobs)
    if running:
        taken(jobs)
    clock.now += 5
    seen = jobs.look(job.id)
    assert seen.state is State.EXPIRED
    assert seen.error == "the job took longer than 5 seconds; ask less"
    if running:
        with pytest.raises(StoppedError):
            jobs.report([job])
        jobs.done(job, b"{}")
        assert jobs.look(job.id).result is None
    assert jobs.standing() == {"waiting": 0, "running": 0, "kept": 1}


def done(jobs, result=b"{}"):
    (job,) = add(jobs)
    taken(jobs)
    jobs.done(job, result)
    return job


def gone(jobs, job):
    try:
        jobs.look(job.id)
    except GoneError:
        return True
    return False


def test_results_are_bounded_in_age_number_and_bytes(clock):
    jobs = queue(clock, result_seconds=60, results_kept=3, results_bytes=100, job_seconds=1000)
    first = done(jobs)
    clock.now += 59
    others = [done(jobs) for _ in range(2)]
    assert not gone(jobs, first)
    clock.now += 1
    assert [gone(jobs, job) for job in (first, *others)] == [True, False, False]
    newer = [done(jobs) for _ in range(2)]
    assert [gone(jobs, job) for job in (*others, *newer)] == [True, False, False, False]
    large = done(jobs, bytes(99))
    assert [gone(jobs, job) for job in (*others, *newer, large)] == [True, True, True, True, False]
    larger = done(jobs, bytes(200))
    assert [gone(jobs, job) for job in (large, larger)] == [True, False]


def test_of_what_is_gone_only_the_newest_is_remembered(clock):
    jobs = queue(clock, results_kept=1)
    ended = [done(jobs) for _ in range(REMEMBERED + 3)]
    assert gone(jobs, ended[-2])
    with pytest.raises(UnknownError):
        jobs.look(ended[0].id)


def test_dropping_ends_a_job_and_forgets_it(clock):
    jobs = queue(clock)
    a, b = add(jobs, Order(), Order())
    jobs.drop(a.id)
    assert a.finished.done()
    assert gone(jobs, a)
    assert taken(jobs) == [b]
    jobs.done(b, b"{}")
    jobs.drop(b.id)
    jobs.drop(b.id)
    assert gone(jobs, b)


def test_closing_ends_everything_and_wakes_the_worker(clock):
    jobs = queue(clock)
    answers = []
    worker = threading.Thread(target=lambda: answers.append(jobs.take(8)))
    worker.start()
    jobs.close()
    worker.join(10)
    assert answers == [[]]
    with pytest.raises(ClosedError):
        add(jobs)


def test_closing_ends_what_waits_and_what_runs(clock):
    jobs = queue(clock)
    a, b = add(jobs, Order(None), Order())
    taken(jobs)
    with jobs.place() as submit:
        jobs.close()
        with pytest.raises(ClosedError):
            submit(Order())
    assert a.state is b.state is State.CANCELLED
    with pytest.raises(StoppedError):
        jobs.report([a])
    assert jobs.standing()["waiting"] == 0


def test_ids_are_secrets(clock):
    jobs = queue(clock, jobs_waiting=500)
    ids = {job.id for job in add(jobs, *[Order()] * 300)}
    assert len(ids) == 300
    assert min(map(len, ids)) >= 24


def test_many_threads_lose_nothing(clock):
    jobs = queue(clock, jobs_waiting=10_000, results_kept=10_000)
    ended = []

    def send():
        ended.extend(add(jobs, *[Order() for _ in range(200)]))

    def work():
        while batch := taken(jobs):
            for job in batch:
                jobs.done(job, job.id.encode())

    worker = threading.Thread(target=work)
    senders = [threading.Thread(target=send) for _ in range(8)]
    for thread in (worker, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    for job in ended:
        job.finished.result(30)
        assert job.result == job.id.encode()
    jobs.close()
    worker.join(10)
    assert jobs.counted == {"done": 1600}
