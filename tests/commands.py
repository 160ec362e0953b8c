"""What tests of commands share: the sentence of an error, what a terminal shows, a disk."""

import errno
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error; nothing on standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("citysegzoo: error: ")
    assert err.endswith(".\n")
    assert "Traceback" not in err
    return err


def run_on_a_terminal(*arguments: object) -> tuple[str, str]:
    """Standard output and error of the command, the latter a terminal of 120 columns."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "citysegzoo", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=its_end,
        check=True,
    )
    os.close(its_end)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError as error:
        if error.errno != errno.EIO:  # that is how Linux says that all is read
            raise
    finally:
        os.close(terminal)
    return done.stdout.decode(), shown.decode()


def enlarge_disk(disk: Path, size: str) -> None:
    """Give the `small_disk` more space, such as ``"16m"``."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
