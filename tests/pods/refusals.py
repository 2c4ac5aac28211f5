"""What programs say when they refuse to go on."""

import re


def said(stderr):
    """The lines in which a program says something on stderr, also those behind a progress bar."""
    assert "Traceback" not in stderr, stderr
    assert "stack trace" not in stderr, stderr
    assert "Warning" not in stderr, stderr
    return re.findall(r"(?:train|eval)\.py: [^\r\n]*", stderr)


def refused(ends, *words):
    """All processes ended with status 2 and said why in lines that hold the words.

    Args:
        ends: see `Run.finish`.
        words: what every line holds.
    """
    for status, _, stderr in ends:
        assert status == 2, stderr
        # What is noticed first of a process that ends may be its broken connection.
        lines = [line for line in said(stderr) if "a lost process may have" not in line]
        assert lines, stderr
        for line in lines:
            assert ".py: error: " in line, line
            for word in words:
                assert word in line, line
