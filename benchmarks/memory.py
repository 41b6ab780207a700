"""The peak of this process's resident memory, for benchmarks that measure in a process of their own.

``resource.getrusage`` must not be asked on Linux: a process that another one starts begins with its parent's ``ru_maxrss``, so
the child of a large parent reports the parent. ``VmHWM`` of ``/proc/self/status`` starts anew with the program.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["peak_mb"]

STATUS = Path("/proc/self/status")


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB of 1e6 bytes.

    Linux: the high-water mark ``VmHWM``. Windows: the peak working set, by psutil. Elsewhere (macOS) ``ru_maxrss``, in bytes;
    whether it starts at the parent's there was not verified.
    """
    if STATUS.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), flags=re.MULTILINE)):
        return int(found[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1) / 1e6
