"""One-off work before serving: model id -> prepared artifact on disk. The only place that may take its time."""
