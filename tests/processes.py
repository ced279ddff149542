"""Finds the processes of a stack, whatever became of their parents."""

import psutil


def belongs_to(stack, process):
    """Return whether a process is one of the stack's."""
    if process.name() == "nginx":  # it writes its title over its environment
        return any(each.laddr.port == stack.port for each in process.net_connections("tcp"))
    return process.environ().get("RERANK_STATE_DIR") == str(stack.state_dir)


def processes_of(stack):
    """Return every living process of the stack, whatever its parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and belongs_to(stack, process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
