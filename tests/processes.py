"""Finds the processes of a stack, whatever became of their parents."""

from pathlib import Path

import psutil


def belongs_to(stack, process):
    """Return whether a process is one of the stack's."""
    if process.name() == "nginx":  # it writes its title over its environment
        return _is_nginx_of(stack, process)
    return process.environ().get("RERANK_STATE_DIR") == str(stack.state_dir)


def _is_nginx_of(stack, process):
    """Return whether an nginx has a file of the stack open: the log that deploys read."""
    opened = Path(f"/proc/{process.pid}/fd")
    return any(str(link.readlink()).startswith(f"{stack.state_dir}/") for link in opened.iterdir())


def processes_of(stack):
    """Return every living process of the stack, whatever its parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and belongs_to(stack, process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found
