"""One router a resource. A handler reads the request, calls one service, writes the answer."""
