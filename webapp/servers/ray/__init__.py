"""Replicas of Ray Serve on asyncio. Ray is imported in `deployment` and `router` only, gevent never."""
