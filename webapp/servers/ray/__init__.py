"""Replicas of Ray Serve on asyncio. Ray is imported in `deployment` only, gevent never."""
