"""Wire formats, one module a family. Pure: no Flask, no service, no clock.

To add one, write a module that defines a `Dialect` and name it in `registry`; `base` has the steps.
"""
