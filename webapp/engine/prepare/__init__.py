"""Make an artifact of a model, before serving: resolve, export or pack, judge by the gate, tune. May take minutes."""
