"""Checks the messages of programs that refuse to continue."""

import re


def said(stderr):
    """Return a program's own lines on stderr, also those after a progress bar."""
    assert "Traceback" not in stderr, stderr
    assert "stack trace" not in stderr, stderr
    assert "Warning" not in stderr, stderr
    return re.findall(r"(?:train|eval)\.py: [^\r\n]*", stderr)


def refused(ends, *words):
    """Assert that all processes ended with status 2 and lines that contain the words.

    Args:
        ends: see `Run.finish`.
        words: contained in every line.
    """
    for status, _, stderr in ends:
        assert status == 2, stderr
        # The broken connection of a process that ends may be noticed first.
        lines = [line for line in said(stderr) if "a lost process may have" not in line]
        assert lines, stderr
        for line in lines:
            assert ".py: error: " in line, line
            for word in words:
                assert word in line, line
