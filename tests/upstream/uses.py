"""What this project replaces in libraries, or uses of their inside, and what would make each of it unnecessary.

To upgrade a library, raise its range in pyproject.toml and run `scripts/test tests/upstream`. A test that fails names
the entry here. Keys are the libraries' names, not ours, so that our modules and classes may move.
"""

DISTRIBUTIONS = {
    "engineio": "python-engineio",
    "flask": "flask",
    "flask_socketio": "flask-socketio",
    "gevent": "gevent",
    "gunicorn": "gunicorn",
    "prometheus_client": "prometheus-client",
    "redis": "redis",
    "simple_websocket": "simple-websocket",
    "socketio": "python-socketio",
    "supervisor": "supervisor",
    "werkzeug": "werkzeug",
}
"""Package -> the distribution that has it. Each has a range in pyproject.toml."""

SUBCLASSES: dict[str, tuple[set[str], str]] = {
    "flask.app.Flask": (
        {"ensure_sync", "session_interface"},
        "Flask calls a view that is no coroutine without ensure_sync, and opens no session unless one is used",
    ),
    "flask.sessions.SessionInterface": ({"open_session"}, "Flask opens no session unless one is used"),
    "gunicorn.glogging.Logger": (
        {"access_log_enabled"},
        "gunicorn formats no access line that no handler takes, also with a logconfig_dict",
    ),
    "gunicorn.workers.ggevent.GeventWorker": (
        {
            *("init_process", "run", "server_class", "handle", "handle_request", "notify", "handle_exit"),
            *("patch", "sockets", "alive", "cfg", "log", "ppid"),
        },
        "gunicorn has hooks in a worker for: ready, each connection, each request, and the moment of TERM",
    ),
    "engineio.async_drivers.gevent.WebSocketWSGI": (
        {"__call__", "__init__", "server_args"},
        "engine.io tells simple-websocket the longest message, and that sends whole ones and needs no compression",
    ),
    "prometheus_client.exposition.MetricsHandler": (
        {"do_GET", "log_message", "timeout"},
        "prometheus_client serves a unix socket with a timeout",
    ),
    "prometheus_client.metrics.Histogram": (
        {"_buckets", "_sum", "_upper_bounds"},
        "a Histogram takes many observations of a bucket in one call",
    ),
    "prometheus_client.registry.Collector": ({"collect"}, "never: this is the documented interface"),
    "redis._parsers.resp2._RESP2Parser": (
        {"_buffer", "_sock", "on_connect", "socket_read_size"},
        "redis-py limits the size of a reply",
    ),
    "redis._parsers.socket.SocketBuffer": ({"_buffer", "_read_from_socket"}, "redis-py limits the size of a reply"),
    "supervisor.dispatchers.POutputDispatcher": (
        {"_init_normallog", "_log", "close", "handle_read_event"},
        "supervisor writes logs without blocking, line by line, through a formatter that can be set",
    ),
    "supervisor.loggers.Handler": ({"close", "emit", "flush"}, "supervisor writes logs without blocking"),
    "supervisor.loggers.Logger": ({"log"}, "supervisor's own log takes a formatter"),
    "supervisor.medusa.asyncore_25.dispatcher": (
        {"close", "handle_error", "handle_read", "writable"},
        "supervisord's loop wakes up when a signal arrives",
    ),
    "supervisor.options.ServerOptions": (
        {"make_logger", "make_pipes"},
        "supervisor's own log takes a formatter, and a program's pipes can be made non-blocking",
    ),
    "supervisor.process.Subprocess": (
        {"dispatchers", "drain"},
        "supervisor reads all that an ended program's pipes hold",
    ),
    "supervisor.supervisord.Supervisor": (
        {"handle_signal", "ordered_stop_groups_phase_1", "reap", "runforever"},
        "supervisord starts, stops and restarts programs without a sleep of a second before each step",
    ),
}
"""A library's class -> what our subclasses replace or use of it, and what would make them unnecessary."""

NEVER_CALLED = {
    "flask.sessions.SessionInterface": {"save_session"},  # Flask saves no null session
    "supervisor.dispatchers.POutputDispatcher": {"handle_write_event"},  # it is never writable
    "supervisor.loggers.Logger": {"getvalue"},  # only logs in memory have it
}
"""Methods that only raise, of these classes and of ours."""

REPLACED = {
    "gevent.events.notify_and_call_entry_points": "gevent searches for no plugins at monkey.patch_all()",
    "gevent.server.StreamServer.max_delay": "gunicorn passes max_delay on to gevent's server",
    "gunicorn.arbiter.Arbiter.murder_workers": "gunicorn's master kills no worker after it stood still itself",
    "prometheus_client.values.MmapedDict": "prometheus_client allocates its files, so that a full disk raises OSError",
    "prometheus_client.values.ValueClass": "prometheus_client takes the name of a process' files as a setting",
    "supervisor.dispatchers.POutputDispatcher": "as the subclass of it",
    "supervisor.process.Subprocess": "as the subclass of it",
    "supervisor.supervisord.ServerOptions": "as the subclass of it",
    "supervisor.supervisord.Supervisor": "as the subclass of it",
}
"""What our code puts something else in the place of -> what would make that unnecessary."""

CLOCKS = {
    "gunicorn.arbiter": "gunicorn waits for workers by time.monotonic",
    "gunicorn.workers.ggevent": "gunicorn drains workers by time.monotonic",
    "supervisor.process": "supervisor waits by time.monotonic",
    "supervisor.rpcinterface": "as supervisor.process: it answers with times that are compared with those",
    "supervisor.supervisord": "as supervisor.process",
}
"""Modules whose `time` is replaced by a clock that never jumps -> what would make that unnecessary."""

REACHED = {
    # gevent
    "gevent.baseserver.BaseServer.max_accept": "gunicorn passes max_accept on to gevent's server",
    "gevent.hub.Hub.handle_error": "gevent's server has a hook for an accept that failed for want of descriptors",
    "gevent._socket3.socket._sock": "gevent's recv follows MSG_DONTWAIT",
    "gevent.pywsgi.Input.rfile": "simple-websocket finds the socket of gevent's WSGI server by itself",
    # gunicorn
    "gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR": "gunicorn has an exception by which a worker ends its master",
    # prometheus_client
    "prometheus_client.multiprocess.MultiProcessCollector.merge": "never: this is documented",
    "prometheus_client.values.MultiProcessValue": "as prometheus_client.values.ValueClass",
    # supervisor
    "supervisor.process.ProcessGroupBase.get_unstopped_processes": "as the subclass of Supervisor",
    "supervisor.process.ProcessGroup.transition": "as the subclass of Supervisor",
    "supervisor.socket_manager.SocketManager.config": "a program's socket stays open while the program restarts",
    "supervisor.socket_manager.SocketManager.get_socket": "a program's socket stays open while the program restarts",
    "supervisor.states.SupervisorStates.RESTARTING": "supervisord has a setting for what HUP does",
    "supervisor.states.SupervisorStates.SHUTDOWN": "supervisord can end with an exit code when a program is FATAL",
    "supervisor.xmlrpc.SupervisorTransport": "xmlrpc.client speaks over unix sockets",
    # Socket.IO
    "engineio.socket.Socket.close": "engine.io disconnects clients that do not read",
    "socketio.base_manager.BaseManager.sid_from_eio_sid": "engine.io closes connections that join no namespace",
    # Flask
    "werkzeug.local.LocalProxy._get_current_object": "never: this is documented",
    "werkzeug.routing.Map.merge_slashes": "never: this is documented",
}
"""What our code uses that is private, or may change without notice -> what would make that unnecessary."""

ASSIGNED = {
    "engineio.base_server.BaseServer": {"_async", "sockets"},
    "engineio.base_socket.BaseSocket": {"closed", "queue"},
    "gevent.server.StreamServer": {"max_accept"},
    "socketio.base_manager.BaseManager": {"rooms"},
    "socketio.base_server.BaseServer": {"eio", "manager"},
    "supervisor.medusa.asyncore_25.dispatcher": {"_fileno"},
    "supervisor.options.ServerOptions": {"mood", "parse_criticals", "parse_infos", "parse_warnings"},
    "supervisor.process.FastCGIProcessGroup": {"socket_manager"},
    "supervisor.supervisord.Supervisor": {"process_groups", "stop_groups"},
    "werkzeug.routing.map.Map": {"strict_slashes"},
}
"""A library's class -> attributes of its instances that our code uses."""
