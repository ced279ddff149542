"""One module a command, named as it is; each holds a `command`. To add one, add a module."""
