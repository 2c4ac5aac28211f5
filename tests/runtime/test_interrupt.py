"""Ctrl-C raises `KeyboardInterrupt` wherever it arrives."""

import gc
import signal
import time
import weakref

import pytest

from agcnn_jax.runtime import interrupt, preemption


@pytest.fixture
def collector_interrupts():
    """Let the garbage collector's next run meet Ctrl-C in a hook, as JAX has one."""

    presses = iter([signal.SIGINT])

    def hook(phase, info):
        for number in presses:
            signal.raise_signal(number)  # to this thread, unlike os.kill

    gc.collect()  # no garbage of other tests, whose finalizers could meet the signal
    gc.callbacks.append(hook)
    yield
    gc.callbacks.remove(hook)


def collect_and_go_on():
    gc.collect()
    for _ in range(500):
        time.sleep(0.01)


@pytest.fixture
def handler():
    before = signal.signal(signal.SIGINT, interrupt.raise_interrupt)
    yield
    signal.signal(signal.SIGINT, before)


def test_in_the_garbage_collector(handler, collector_interrupts):
    with pytest.raises(KeyboardInterrupt):
        collect_and_go_on()


def test_in_a_finalizer(handler):
    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Interrupted()
        collect_and_go_on()


def test_in_the_callback_of_a_weak_collection(handler):
    class Interrupting(set):
        def discard(self, item):
            signal.raise_signal(signal.SIGINT)

    class Key:
        pass

    weak, key = weakref.WeakSet(), Key()
    weak.add(key)
    weak.data = Interrupting(weak.data)
    with pytest.raises(KeyboardInterrupt):
        del key
        collect_and_go_on()


def test_anywhere_else_at_once(handler):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_programs_handle_it_so():
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupt.end_quietly()
        interrupt.raise_again()
        assert signal.getsignal(signal.SIGINT) is interrupt.raise_interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_one_while_a_training_stops(collector_interrupts):
    with pytest.raises(KeyboardInterrupt), preemption.stop_requests() as requested:
        signal.raise_signal(signal.SIGINT)
        assert requested()
        collect_and_go_on()
