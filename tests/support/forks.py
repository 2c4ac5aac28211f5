"""What calls say in a process that was forked from this one."""

import os
import signal

from agcnn_jax.data.pixels import UnreadableImageError
from agcnn_jax.runtime.errors import UserError


def said_in_a_fork(*calls):
    """Return the lines of the errors of each call, as they are in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # rather than hang
        status = 1
        try:
            for call in calls:
                try:
                    call()
                except (UserError, UnreadableImageError) as error:
                    os.write(writing, f"{error}\n".encode())
            status = 0
        finally:
            os._exit(status)  # whatever happens, no second run of the tests
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    with open(reading) as file:
        return file.read().splitlines()
