"""The order in which requests are scored. Knows no Flask, no gevent and no tensor library."""
