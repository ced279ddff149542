"""The commands: a module each, with the command's name, that holds `command`."""
