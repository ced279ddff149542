"""Decides who is scored next. Knows no Flask, no gevent and no tensor library."""
