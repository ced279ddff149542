"""One module a wire format: parse(body) -> RerankRequest, dump(result) -> body. Pure: no Flask, no service."""
